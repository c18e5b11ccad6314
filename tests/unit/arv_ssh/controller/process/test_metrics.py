"""What a controller tells of its sessions in numbers, alone and with other processes beside it."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from arv_ssh.audit.trail import OFF
from arv_ssh.controller.peers import private_socket
from arv_ssh.controller.peers.peers import Peers
from arv_ssh.controller.process.metrics import MetricsEndpoint, SessionMetrics
from arv_ssh.controller.shell.sessions import KILLED, Attempt, Sessions
from arv_ssh.errors import Forbidden, HttpError, Unavailable
from arv_ssh.net.http_messages import Request
from arv_ssh.net.http_server import HttpConnection
from tests.unit.arv_ssh.controller.sessions import session
from tests.unit.arv_ssh.streams import Wire

TOKEN = "management"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def request(query: str = "", token: str = TOKEN) -> Request:
    return Request("GET", "/metrics", query, {"authorization": f"Bearer {token}"}, b"", "192.0.2.7", "req-1")


def samples(body: bytes) -> Samples:
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(body.decode())
        for one in family.samples
    }


class Process:
    """One controller process's sessions and metrics; its private socket is in ``run_dir``."""

    def __init__(self, run_dir: Path) -> None:
        self.sessions = Sessions()
        metrics = SessionMetrics(self.sessions, OFF)
        self.private = private_socket.enter(run_dir)
        self.endpoint = MetricsEndpoint(metrics, Peers(self.private.path, "", ()), TOKEN)

    async def read(self, query: str = "") -> Samples:
        return samples((await self.endpoint.handle(request(query))).body)

    def get(self, read: Samples, name: str, **labels: str) -> float:
        return read[name, frozenset((labels | {"pid": str(os.getpid())}).items())]


@pytest.fixture
def process(tmp_path: Path) -> Any:
    one = Process(tmp_path / "run")
    yield one
    one.private.close()


def test_sessions_by_result(process: Process) -> None:
    """Requests are counted by what came of them, ends by their reason without its sentence, dial failures by cause."""
    sessions = process.sessions
    attempt = Attempt("req-1", "c", "", "192.0.2.7")
    unreachable = Unavailable("down")
    unreachable.dial_failure = "unreachable"
    for error in (Forbidden("no"), Forbidden("no"), unreachable):
        sessions.refused(attempt, error)
    wires = [(Wire(), Wire()) for _ in range(2)]
    for client, gateway in wires:
        sessions.run(session(started=time.time()), (client, b""), (gateway, b""))
    next(iter(sessions)).end(f"{KILLED}: enough")
    for wire in wires[0]:
        wire.lose()
    read = asyncio.run(process.read())
    assert process.get(read, "arv_ssh_session_requests_total", result="opened") == 2
    assert process.get(read, "arv_ssh_session_requests_total", result="403") == 2
    assert process.get(read, "arv_ssh_session_requests_total", result="503") == 1
    assert process.get(read, "arv_ssh_sessions_closed_total", reason="killed") == 1
    assert process.get(read, "arv_ssh_gateway_dial_failures_total", cause="unreachable") == 1
    assert process.get(read, "arv_ssh_open_sessions") == 1
    assert process.get(read, "arv_ssh_controller_up") == 1
    assert process.get(read, "process_open_fds") > 0
    assert process.get(read, "arv_ssh_audit_records_lost_total") == 0


def test_lost_and_resumed(process: Process) -> None:
    """A session without a connection is open and waits; loss and return are counted, and its bytes only once."""
    one = session(hold=600.0)
    client, gateway = Wire(), Wire()
    process.sessions.run(one, (client, b"abc"), (gateway, b""))
    gateway.receive(b"hello")
    client.lose(ConnectionResetError("reset"))
    gateway.lose()
    lost = asyncio.run(process.read())
    process.sessions.run(session(id=one.id, hold=600.0, attempt=1), (Wire(), b"de"), (Wire(), b""))
    back = asyncio.run(process.read())
    for read, waiting, resumed, size in ((lost, 1, 0, 3), (back, 0, 1, 5)):
        assert process.get(read, "arv_ssh_open_sessions") == 1
        assert process.get(read, "arv_ssh_waiting_sessions") == waiting
        assert process.get(read, "arv_ssh_sessions_lost_total") == 1
        assert process.get(read, "arv_ssh_sessions_resumed_total") == resumed
        assert process.get(read, "arv_ssh_session_bytes_total", direction="from_client") == size
        assert process.get(read, "arv_ssh_session_requests_total", result="opened") == 1
        assert process.get(read, "arv_ssh_first_byte_seconds_count") == 1


def test_bytes_of_running_sessions(process: Process) -> None:
    """Bytes are current while a session runs, and are still there after its end."""
    client, gateway = Wire(), Wire()
    process.sessions.run(session(), (client, b"abc"), (gateway, b""))
    gateway.receive(b"hello")
    first = asyncio.run(process.read())
    gateway.receive(b"more")
    client.lose()
    gateway.lose()
    second = asyncio.run(process.read())
    for read, sent in ((first, 5), (second, 9)):
        assert process.get(read, "arv_ssh_session_bytes_total", direction="from_client") == 3
        assert process.get(read, "arv_ssh_session_bytes_total", direction="to_client") == sent


def test_times(process: Process) -> None:
    """Handshake and first byte are counted once a session; one that never had a byte has no time to its first."""
    started = time.time() - 0.3
    wires = [(Wire(), Wire()) for _ in range(2)]
    for client, gateway in wires:
        process.sessions.run(session(started=started), (client, b""), (gateway, b""))
    wires[0][1].receive(b"SSH-2.0-x")
    for _ in range(2):
        read = asyncio.run(process.read())
        assert process.get(read, "arv_ssh_handshake_seconds_count") == 2
        assert process.get(read, "arv_ssh_handshake_seconds_bucket", le="0.25") == 0
        assert process.get(read, "arv_ssh_first_byte_seconds_count") == 1
        assert process.get(read, "arv_ssh_first_byte_seconds_sum") >= 0.3
    for wire in (*wires[0], *wires[1]):
        wire.lose()
    assert process.get(asyncio.run(process.read()), "arv_ssh_first_byte_seconds_count") == 1


def test_without_the_token(process: Process) -> None:
    """Nobody without the ManagementToken is told anything."""
    with pytest.raises(HttpError, match="/metrics needs the cluster's ManagementToken"):
        asyncio.run(process.endpoint.handle(request(token="other")))


def test_other_processes(process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever process is asked tells of all, each under its pid; one that does not answer is told to be down."""
    own = str(os.getpid())
    process.sessions.run(session(), (Wire(), b"abc"), (Wire(), b""))
    monkeypatch.setattr("arv_ssh.controller.peers.peer_client.TIMEOUT", 0.5)
    monkeypatch.setattr("os.getpid", lambda: 111)
    other = Process(tmp_path / "run")
    monkeypatch.setattr("os.getpid", lambda: 222)
    silent = private_socket.enter(tmp_path / "run")
    monkeypatch.setattr("os.getpid", lambda: int(own))
    silent.listener.listen()
    other.sessions.run(session(), (Wire(), b"defgh"), (Wire(), b""))

    async def handle(asked: Request) -> Any:
        assert asked.query == "own"
        monkeypatch.setattr("os.getpid", lambda: 111)
        try:
            return await other.endpoint.handle(asked)
        finally:
            monkeypatch.setattr("os.getpid", lambda: int(own))

    async def ask() -> Samples:
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: HttpConnection(handle), sock=other.private.listener)
        async with server:
            return await process.read()

    read = asyncio.run(ask())
    for private in (other.private, silent):
        private.close()
    up = {dict(labels)["pid"]: value for (name, labels), value in read.items() if name == "arv_ssh_controller_up"}
    assert up == {own: 1, "111": 1, "222": 0}
    received = {
        dict(labels)["pid"]: value
        for (name, labels), value in read.items()
        if name == "arv_ssh_session_bytes_total" and ("direction", "from_client") in labels
    }
    assert received == {own: 3, "111": 5}
    assert silent.listener.fileno() == -1 and isinstance(silent.listener, socket.socket)
