"""The gateway's side of the broker, against a process that means harm, ends, or cannot be started."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from crunch_sshd.forwarding.broker import ENDED, MAX_STARTS, BrokerClient, BrokerError
from crunch_sshd.forwarding.broker_answers import MESSAGE_LIMIT, SENSELESS
from crunch_sshd.runtimes import entry
from tests.timing import DEADLINE
from tests.unit.crunch_sshd.double import ROOT

Answer = Callable[[socket.socket, dict[str, Any]], None]


class Child:
    """A process that ends when it is killed."""

    def __init__(self) -> None:
        self.killed = threading.Event()

    def kill(self) -> None:
        self.killed.set()

    def wait(self, timeout: float | None = None) -> int:
        return 0

    end = kill


class Hostile:
    """Starts "processes": threads that answer each request as the test says."""

    def __init__(self) -> None:
        self.answer: Answer = lambda sock, request: None
        self.failure: Exception | None = None
        self.children: list[Child] = []
        self.requests: list[dict[str, Any]] = []
        self._threads: list[threading.Thread] = []

    def enter(self, container: Any, account: Any, module: str, profile: Any, arguments: Sequence[str], *, gateway: int
              ) -> Child:  # fmt: skip
        if self.failure is not None:
            raise self.failure
        sock = socket.socket(fileno=os.dup(gateway))
        self.children.append(Child())
        self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
        self._threads[-1].start()
        return self.children[-1]

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                while message := sock.recv(MESSAGE_LIMIT):
                    self.requests.append(json.loads(message))
                    self.answer(sock, self.requests[-1])
            except OSError:
                return  # the gateway has had enough

    def join(self) -> None:
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    """What stands where the broker's process should be."""
    one = Hostile()
    monkeypatch.setattr(entry, "enter", one.enter)
    yield one
    one.join()


@pytest.fixture
def client(hostile: Hostile) -> Iterator[BrokerClient]:
    """A client of it, closed before."""
    one = BrokerClient(cast(Any, "a container"), ROOT)
    yield one
    one.close()
    for thread in threading.enumerate():
        if thread.name in ("broker", "broker-end"):
            thread.join(DEADLINE)
            assert not thread.is_alive()


def reply(sock: socket.socket, request: dict[str, Any], descriptors: Sequence[int] = (), **values: Any) -> None:
    """Answer a request; ``sockets`` in ``values`` may lie about their number."""
    answer = {"id": request["id"], "sockets": len(descriptors), **values}
    socket.send_fds(sock, [json.dumps(answer).encode()], descriptors)


def raw(data: bytes) -> Answer:
    """Answer with ``data`` as it stands."""
    return lambda sock, request: cast(None, sock.send(data))


BROKEN = {
    "not JSON": raw(b"hello"),
    "not text": raw(b"\xff\xfe\x00"),
    "not an object": raw(b"[1, 2]"),
    "nested beyond reason": raw(b"[" * 60_000),
    "no number": raw(b"{}"),
    "a number that is none": raw(b'{"id": true}'),
    "another number": raw(b'{"id": 999}'),
    "a list for a number": raw(b'{"id": [1]}'),
    "digits without end": raw(b'{"id": ' + b"9" * 5000 + b"}"),
    "too long": raw(b" " * (MESSAGE_LIMIT + 1)),
    "failed, but how": raw(b'{"failed": 3}'),
    "the end": lambda sock, request: sock.shutdown(socket.SHUT_RDWR),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_answers_that_break_the_protocol(client: BrokerClient, hostile: Hostile, answer: Answer) -> None:
    """Who waits hears that the process has ended, it is killed, and the next request gets another one."""
    hostile.answer = answer
    with pytest.raises(BrokerError, match=ENDED):
        client.resolve("db")
    hostile.answer = lambda sock, request: reply(sock, request, addresses=[["10.0.0.1", False]])
    assert client.resolve("db")[0].address == "10.0.0.1"
    assert len(hostile.children) == 2
    assert hostile.children[0].killed.wait(DEADLINE)


SENSELESS_VALUES: dict[str, dict[str, Any]] = {
    "none": {},
    "no list": {"addresses": "10.0.0.1"},
    "no pairs": {"addresses": ["10.0.0.1"]},
    "no text": {"addresses": [[1, True]]},
    "no truth": {"addresses": [["10.0.0.1", 1]]},
    "no address": {"addresses": [["localhost; rm -rf /", True]]},
    "no text for an error": {"error": {"a": 1}},
}


@pytest.mark.parametrize("values", SENSELESS_VALUES.values(), ids=SENSELESS_VALUES.keys())
def test_addresses_that_make_no_sense(client: BrokerClient, hostile: Hostile, values: dict[str, Any]) -> None:
    """Values of the wrong kind are an error of this one request."""
    hostile.answer = lambda sock, request: reply(sock, request, **values)
    with pytest.raises(BrokerError, match=SENSELESS):
        client.resolve("db")
    assert len(hostile.children) == 1


def test_error_text(client: BrokerClient, hostile: Hostile) -> None:
    """An error's text ends up on a terminal: it is one line of printable characters."""
    hostile.answer = lambda sock, request: reply(sock, request, error="no\x1b]0;owned\x07\r\n" + "x" * 5000)
    with pytest.raises(BrokerError) as refused:
        client.connect(["10.0.0.1"], 1)
    assert str(refused.value).startswith("no?]0;owned???x") and len(str(refused.value)) == 300


@pytest.mark.parametrize("port", [None, 0, -1, 65536, "80", True, 1.5, [80]])
def test_port_that_is_none(client: BrokerClient, hostile: Hostile, port: Any) -> None:
    """A port that no listener has is an error, and the socket that came with it is closed."""
    near, far = socket.socketpair()
    with far:
        hostile.answer = lambda sock, request: reply(sock, request, [near.fileno()], port=port)
        with pytest.raises(BrokerError, match=SENSELESS):
            client.listen("localhost", 0)
        near.close()
        assert far.recv(1) == b"", "a socket is kept"


@pytest.mark.parametrize("path", [None, 1, "", "relative", "/with\0zero", "/" + "x" * 5000])
def test_path_that_is_none(client: BrokerClient, hostile: Hostile, path: Any) -> None:
    """A path that cannot be one for the program's environment is an error."""
    near, far = socket.socketpair()
    with far:
        hostile.answer = lambda sock, request: reply(sock, request, [near.fileno()], path=path)
        with pytest.raises(BrokerError, match=SENSELESS):
            client.listen_agent()
        near.close()
        assert far.recv(1) == b""


@pytest.mark.parametrize("count", [0, 2, 16])
def test_number_of_sockets(client: BrokerClient, hostile: Hostile, count: int) -> None:
    """A connection is one socket: none or more are an error, and are closed."""
    near, far = socket.socketpair()
    with far:
        hostile.answer = lambda sock, request: reply(sock, request, [near.fileno()] * count)
        with pytest.raises(BrokerError, match=SENSELESS):
            client.connect(["10.0.0.1"], 1)
        near.close()
        assert far.recv(1) == b""


@pytest.mark.parametrize(("sent", "said"), [(1, 2), (17, 17), (40, 1), (0, 1), (1, "1")])
def test_sockets_that_are_not_those_announced(
    client: BrokerClient, hostile: Hostile, sent: int, said: object
) -> None:
    """When other sockets come than the answer says, or more than there is room for, they are closed."""
    near, far = socket.socketpair()
    with far:
        hostile.answer = lambda sock, request: reply(sock, request, [near.fileno()] * sent, sockets=said)
        with pytest.raises(BrokerError, match=os.strerror(errno.EMFILE)):
            client.connect(["10.0.0.1"], 1)
        near.close()
        assert far.recv(1) == b""


def test_descriptor_that_is_no_socket(client: BrokerClient, hostile: Hostile) -> None:
    """A pipe where a socket should be is closed, and so is everything that came with it."""
    reader, writer = os.pipe()
    near, far = socket.socketpair()
    with far:
        hostile.answer = lambda sock, request: reply(sock, request, [near.fileno(), writer])
        with pytest.raises(BrokerError, match=ENDED):
            client.connect(["10.0.0.1"], 1)
        near.close()
        os.close(writer)
        assert far.recv(1) == b"" and os.read(reader, 1) == b""
    os.close(reader)


def test_socket_of_another_kind(client: BrokerClient, hostile: Hostile) -> None:
    """Only stream sockets are what a channel can be joined to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        hostile.answer = lambda sock, request: reply(sock, request, [datagrams.fileno()])
        with pytest.raises(BrokerError, match=ENDED):
            client.connect(["10.0.0.1"], 1)


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "cannot start its broker: Too many open files"),
        (subprocess.SubprocessError("preexec"), "cannot start its broker: preexec"),
    ],
)
def test_process_that_cannot_be_started(
    client: BrokerClient, hostile: Hostile, failure: Exception, sentence: str
) -> None:
    """The request is answered; the next one tries again."""
    hostile.failure = failure
    with pytest.raises(BrokerError, match=sentence):
        client.resolve("db")
    hostile.failure = None
    hostile.answer = lambda sock, request: reply(sock, request, addresses=[])
    assert client.resolve("db") == []


def test_no_thread_for_the_answers(
    client: BrokerClient, hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process whose answers nobody could read is killed, and the request is answered."""
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name == "broker":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(BrokerError, match="Resource temporarily unavailable"):
        client.resolve("db")
    assert hostile.children[0].killed.is_set()


def test_every_waiting_request_is_answered_at_the_end(client: BrokerClient, hostile: Hostile) -> None:
    """Requests of many threads that wait for one process all hear of its end."""
    all_there = threading.Barrier(2)
    hostile.answer = lambda sock, request: cast(None, len(hostile.requests) == 8 and all_there.wait(DEADLINE))
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(client.resolve, "db") for _ in range(8)]
        all_there.wait(DEADLINE)
        client.close()
        for future in futures:
            with pytest.raises(BrokerError, match="the connection is closed"):
                future.result(DEADLINE)


def test_files_outlive_their_process(client: BrokerClient, hostile: Hostile) -> None:
    """When the process is killed another one is started at once, and told of the files that the first one made."""
    told = threading.Event()
    near, far = socket.socketpair()
    with near, far:

        def answer(sock: socket.socket, request: dict[str, Any]) -> None:
            if request["do"] == "die":
                sock.shutdown(socket.SHUT_RDWR)
            elif request["do"] == "listen-agent":
                reply(sock, request, [near.fileno()], path="/tmp/ssh-x/agent")
            else:
                reply(sock, request)
            if request["do"] == "keep":
                told.set()

        hostile.answer = answer
        listening = client.listen_agent()
        with pytest.raises(BrokerError, match=ENDED):
            client._ask("die")
        assert told.wait(DEADLINE)
        kept = {"made": listening.key, "paths": ["/tmp/ssh-x", "/tmp/ssh-x/agent"]}
        assert hostile.requests[-1] == {"id": 3, "do": "keep", **kept}
        client.remove(listening)
        assert hostile.requests[-1] == {"id": 4, "do": "remove", **kept}
        for sock in listening.sockets:
            sock.close()


def test_process_that_never_lasts(client: BrokerClient, hostile: Hostile) -> None:
    """What kills one process after the other is not fed for ever."""
    hostile.answer = raw(b"no")
    for _ in range(MAX_STARTS):
        with pytest.raises(BrokerError, match=ENDED):
            client.resolve("db")
    with pytest.raises(BrokerError, match="open another connection"):
        client.resolve("db")
    assert len(hostile.children) == MAX_STARTS


def test_container_that_cannot_be_entered(client: BrokerClient, hostile: Hostile) -> None:
    """What the process says of its start is the answer, now and later: another one would fail too."""
    hostile.answer = raw(b'{"failed": "Operation not permitted"}')
    for _ in range(2):
        with pytest.raises(BrokerError, match="cannot be entered: Operation not permitted"):
            client.resolve("db")
    assert len(hostile.children) == 1


def test_request_that_is_too_long(client: BrokerClient, hostile: Hostile) -> None:
    """What would not fit into a message is refused before a process is started for it."""
    with pytest.raises(BrokerError, match="File name too long"):
        client.connect_unix("/" + "x" * MESSAGE_LIMIT)
    assert not hostile.children
