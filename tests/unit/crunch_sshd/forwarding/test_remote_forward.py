"""The requests to listen: each answered once, in its turn, whatever fails, and only so many waiting."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from paramiko.message import Message

from crunch_sshd.audit.channel_audit import ConnectionAudit
from crunch_sshd.forwarding.channel_relay import Relays
from crunch_sshd.forwarding.remote_forward import RemoteForwards
from crunch_sshd.ssh.limits import MAX_LISTENERS, NAME_LENGTH, PATH_LENGTH, WAITING_FORWARDS
from tests.unit.crunch_sshd.double import DEADLINE, LocalBroker

TCP, UNIX = "tcpip-forward", "streamlocal-forward@openssh.com"


class Asker:
    """A client's requests, and the replies in the order in which they come."""

    def __init__(self, broker: LocalBroker) -> None:
        self.forwards = RemoteForwards(cast(Any, None), Relays(), cast(Any, broker), ConnectionAudit())
        self.replies: queue.Queue[tuple[bool, tuple[int, ...]]] = queue.Queue()

    def ask(self, kind: str, place: bytes, port: int = 0, reply: Callable[..., None] | None = None) -> None:
        message = Message()
        message.add_string(place)
        message.add_int(port)
        message.rewind()
        self.forwards.request(kind, message, reply or (lambda *answer: self.replies.put(answer)))

    def next(self) -> tuple[bool, tuple[int, ...]]:
        return self.replies.get(timeout=DEADLINE)


@pytest.fixture
def broker() -> LocalBroker:
    """A broker on this machine."""
    return LocalBroker()


@pytest.fixture
def asker(broker: LocalBroker) -> Iterator[Asker]:
    """A client of it; at the end no thread is left."""
    one = Asker(broker)
    yield one
    broker.gate.set()
    one.forwards.close()
    for thread in threading.enumerate():
        if thread.name in ("remote-forward", "listener"):
            thread.join(DEADLINE)
            assert not thread.is_alive()


def fail_to_start(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have the host without room for threads of this name."""
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)


def test_only_so_many_wait(asker: Asker, broker: LocalBroker) -> None:
    """While one request takes its time only so many wait behind it; those beyond are refused at once."""
    broker.gate.clear()
    for _ in range(2 * WAITING_FORWARDS):
        asker.ask(TCP, b"localhost")
    refused = [asker.next() for _ in range(WAITING_FORWARDS - 1)]
    assert refused == [(False, ())] * len(refused)
    broker.gate.set()
    answers = [asker.next()[0] for _ in range(WAITING_FORWARDS)]
    assert answers.count(True) >= MAX_LISTENERS - 1


@pytest.mark.parametrize(("kind", "longest"), [(TCP, NAME_LENGTH), (UNIX, PATH_LENGTH), ("cancel-" + TCP, NAME_LENGTH)])
def test_names_that_are_too_long(asker: Asker, kind: str, longest: int) -> None:
    """A name longer than any system has is refused, and not kept."""
    asker.ask(kind, b"/" * (longest + 1))
    assert asker.next() == (False, ())
    assert asker.forwards._thread is None, "it was not worked on"


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, os.strerror(errno.EMFILE)), PermissionError(1, "no")])
def test_what_the_system_has_no_room_for(
    asker: Asker, broker: LocalBroker, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """An error of the system's is a failure of this request alone: the next one is served."""

    def fail(host: str, port: int) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(broker, "listen", fail)
        asker.ask(TCP, b"localhost")
        assert asker.next() == (False, ())
    asker.ask(TCP, b"localhost")
    assert asker.next()[0]


def test_no_thread_for_the_requests(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for the thread that serves the requests each is refused, until there is room."""
    with monkeypatch.context() as patched:
        fail_to_start(patched, "remote-forward")
        asker.ask(TCP, b"localhost")
        assert asker.next() == (False, ())
    asker.ask(TCP, b"localhost")
    assert asker.next()[0]


def test_no_thread_to_accept(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for a thread that accepts, nothing listens and the client hears so."""
    with monkeypatch.context() as patched:
        fail_to_start(patched, "listener")
        asker.ask(TCP, b"localhost")
        assert asker.next() == (False, ())
    assert not asker.forwards._listeners
    asker.ask(TCP, b"localhost")
    assert asker.next()[0]


def test_connection_that_goes_while_a_reply_is_sent(asker: Asker) -> None:
    """A reply that cannot be sent ends nothing: what listens is still closed with the connection."""

    def gone(*answer: object) -> None:
        raise BrokenPipeError("the connection is closed")

    asker.ask(TCP, b"localhost", reply=gone)
    asker.ask(TCP, b"localhost")
    assert asker.next()[0]
    listeners = [listener for listener, _ in asker.forwards._listeners.values()]
    assert len(listeners) == 2
    asker.forwards.close()
    for listener in listeners:
        assert listener._closed.wait(DEADLINE)
