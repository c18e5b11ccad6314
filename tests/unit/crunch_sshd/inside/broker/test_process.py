"""The broker's process without the entering: its requests, many at once, and what it leaves behind: nothing."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crunch_sshd.inside.broker import dial, process, resolver
from crunch_sshd.inside.broker.process import BrokerServer
from tests.timing import DEADLINE

LOOPBACK = ["127.0.0.1"]


class Asker:
    """The gateway's end, bare: requests by number, answers in any order."""

    def __init__(self, home: str) -> None:
        self.near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.near.settimeout(DEADLINE)
        self.far = far
        self.thread = threading.Thread(target=BrokerServer(far, home).serve)
        self.thread.start()
        self.sockets: list[socket.socket] = []

    def send(self, number: int, request: str, **values: Any) -> None:
        self.near.send(json.dumps({"id": number, "do": request, **values}).encode())

    def receive(self) -> tuple[dict[str, Any], list[socket.socket]]:
        data, descriptors, _, _ = socket.recv_fds(self.near, 65536, 16)
        sockets = [socket.socket(fileno=one) for one in descriptors]
        self.sockets += sockets
        return json.loads(data), sockets

    def ask(self, request: str, **values: Any) -> tuple[dict[str, Any], list[socket.socket]]:
        self.send(1, request, **values)
        return self.receive()

    def close(self) -> None:
        self.near.close()
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()
        self.far.close()
        for sock in self.sockets:
            sock.close()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Asker]:
    """A broker in this process, whose user has no other place than a home."""
    asker = Asker(str(tmp_path))
    yield asker
    asker.close()


def test_listen_and_connect(broker: Asker) -> None:
    """A socket that listens and one that is connected to it come as descriptors; port 0 gets a port, which is told."""
    answer, (listener,) = broker.ask("listen", host="127.0.0.1", port=0)
    assert answer["port"] == listener.getsockname()[1] > 0
    _, (near,) = broker.ask("connect", addresses=LOOPBACK, port=answer["port"])
    far, _ = listener.accept()
    with far:
        far.sendall(b"data")
        near.setblocking(True)
        assert near.recv(10) == b"data"


@pytest.mark.parametrize("host", ["", "localhost"])
def test_listen_at_several_addresses(broker: Asker, host: str) -> None:
    """"" and localhost listen for both families where there are two, on one port."""
    answer, sockets = broker.ask("listen", host=host, port=0)
    assert {sock.getsockname()[1] for sock in sockets} == {answer["port"]}
    assert sockets[0].getsockname()[0] == ("127.0.0.1" if host else "0.0.0.0")


def test_errors(broker: Asker, tmp_path: Path) -> None:
    """A failure is told in the system's words."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert broker.ask("listen", host="127.0.0.1", port=port)[0]["error"] == "Address already in use"
    assert broker.ask("connect", addresses=LOOPBACK, port=port)[0]["error"] == "Connection refused"
    assert broker.ask("connect", addresses=[], port=port)[0]["error"] == "Cannot assign requested address"
    assert broker.ask("connect-unix", path=str(tmp_path / "none"))[0]["error"] == "No such file or directory"
    assert broker.ask("listen-unix", path="x" * 108)[0]["error"] == "File name too long"
    assert broker.ask("listen-unix", path="")[0]["error"] == "Invalid argument"
    assert broker.ask("connect-unix", path="\0abstract")[0]["error"] == "Invalid argument"
    assert broker.ask("connect")[0]["error"] == "the broker failed: KeyError"


def test_stuck_request_holds_up_no_other(broker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a name is looked up for ever, other requests are answered."""
    gate = threading.Event()
    monkeypatch.setattr(resolver, "resolve", lambda host: [] if gate.wait(DEADLINE) else [])
    broker.send(7, "resolve", host="stuck")
    broker.send(8, "connect", addresses=LOOPBACK, port=1)
    assert broker.receive()[0]["id"] == 8
    gate.set()
    assert broker.receive()[0] == {"id": 7, "addresses": [], "sockets": 0}


def test_next_address_is_tried(broker: Asker) -> None:
    """When the first address refuses, the next is connected to; the first one's failure is told when all fail."""
    answer, _ = broker.ask("listen", host="127.0.0.1", port=0)
    assert len(broker.ask("connect", addresses=["127.0.0.2", "127.0.0.1"], port=answer["port"])[1]) == 1
    assert broker.ask("connect", addresses=["127.0.0.2", "255.255.255.255"], port=1)[0]["error"] == "Connection refused"


def test_unix_sockets_are_removed(broker: Asker, tmp_path: Path) -> None:
    """A unix socket is removed when asked for, and all that is left at the end."""
    first, second = tmp_path / "first", tmp_path / "second"
    broker.send(1, "listen-unix", path=str(first))
    broker.receive()
    broker.send(2, "listen-unix", path=str(second))
    broker.receive()
    assert first.is_socket() and second.is_socket()
    broker.send(3, "remove", made=1)
    broker.receive()
    assert not first.exists() and second.is_socket()
    broker.close()
    assert not second.exists()


def test_agents_directory(broker: Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's socket is in a new directory for its user alone, in the first place that takes it; both go."""
    monkeypatch.setattr(process, "AGENT_PLACES", (str(tmp_path / "missing"), str(tmp_path)))
    answer, (listener,) = broker.ask("listen-agent")
    path = Path(answer["path"])
    assert path.is_socket() and path.parent.parent == tmp_path
    assert os.stat(path.parent).st_mode & 0o777 == 0o700
    broker.close()
    assert not path.parent.exists()


def test_no_place_for_the_agent(broker: Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no place takes a directory, the first one's reason is told."""
    monkeypatch.setattr(process, "AGENT_PLACES", (str(tmp_path / "missing"),))
    os.rmdir(tmp_path)
    assert broker.ask("listen-agent")[0]["error"] == "No such file or directory"
    tmp_path.mkdir()


def test_own_addresses() -> None:
    """An address of this machine is its own, one of the documentation is not."""
    assert dial.is_own("127.0.0.1") and not dial.is_own("192.0.2.1")
