"""The gateway as a listening server: its address, its patience, its end."""

from __future__ import annotations

import gc
import json
import queue
import secrets
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from arv_ssh.errors import ConfigError
from arv_ssh.net.tls import client_context
from arv_ssh.net.upgrade import UpgradeAnswer, request
from arv_ssh.trust import credentials, session_claim
from arv_ssh.trust.session_claim import SessionClaim
from crunch_sshd.gateway import gateway as gateway_module
from crunch_sshd.gateway.gateway import Gateway
from crunch_sshd.ssh import memory
from tests.timing import wait_for
from tests.unit.crunch_sshd.double import DEADLINE, SECRET, MemoryRuntime

UUID = "zzzzz-dz642-abcdeabcdeabcde"


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    one = Gateway(container_uuid=UUID, secret=SECRET, runtime=MemoryRuntime())
    yield one
    one.stop()


def connected(address: str) -> ssl.SSLSocket:
    host, _, port = address.rpartition(":")
    return client_context(insecure=True).wrap_socket(socket.create_connection((host, int(port)), DEADLINE))


def opened(address: str, early: bytes = b"") -> tuple[ssl.SSLSocket, bytes]:
    """Open a proven session with ``early`` glued to the request; return the connection and what followed the 101."""
    connection = connected(address)
    proof = credentials.request_auth(SECRET, connection.getpeercert(binary_form=True) or b"")
    text = session_claim.encode(SessionClaim(UUID, int(time.time()) + 60, "", f"req-{secrets.token_hex(4)}", "u"))
    headers = [
        ("X-Arvados-Container-Gateway-Uuid", UUID),
        ("X-Arvados-Authorization", proof),
        ("X-Arvados-Session", text),
        ("X-Arvados-Session-Authorization", credentials.session_auth(SECRET, proof, address, text)),
    ]
    connection.sendall(request("POST", "/ssh", address, headers, {"detach_keys": ""}) + early)
    answer = UpgradeAnswer()
    while not answer.receive(connection.recv(65536)):
        pass
    assert answer.status == 101, answer.body
    return connection, answer.trailing


def test_ssh_begins_behind_the_answer(gateway: Gateway) -> None:
    """After the 101 the SSH server greets, and takes a greeting that was glued to the request."""
    connection, received = opened(gateway.start(), early=b"SSH-2.0-glued\r\n")
    with connection:
        while len(received) < 200:  # the server's greeting, then its KEXINIT: it has read ours
            received += connection.recv(65536)
        assert received.startswith(b"SSH-2.0-OpenSSH_9.9 arv-ssh\r\n")


def test_login_must_come_in_time(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proven connection that does not log in is closed after its grace."""
    monkeypatch.setattr(gateway_module, "LOGIN_GRACE", 0.05)
    connection, _ = opened(gateway.start())
    with connection:
        while connection.recv(65536):
            pass


def test_stop_ends_connections(gateway: Gateway) -> None:
    """Stopping ends what is open in good order and can be done twice; nobody listens any more."""
    address = gateway.start()
    connection, _ = opened(address)
    gateway.stop()
    with connection:
        while connection.recv(65536):
            pass  # a cut instead of an end would be an error
    gateway.stop()
    with pytest.raises(OSError):
        connected(address)


def test_connections_are_counted() -> None:
    """Whoever runs the container hears how many connections are open, whenever one comes or goes."""
    counts: queue.Queue[int] = queue.Queue()
    gateway = Gateway(container_uuid=UUID, secret=SECRET, runtime=MemoryRuntime(), counted=counts.put)
    connection, _ = opened(gateway.start())
    with connection:
        assert counts.get(timeout=DEADLINE) == 1
    assert counts.get(timeout=DEADLINE) == 0
    gateway.stop()


def test_plain_http(gateway: Gateway) -> None:
    """A request without TLS gets a sentence in JSON."""
    host, _, port = gateway.start().rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE) as connection:
        connection.sendall(b"POST /ssh HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert "https://" in json.loads(answer.partition(b"\r\n\r\n")[2])["errors"][0]


def test_advertised_host() -> None:
    """The address to record names the advertised host, in brackets where it is IPv6."""
    for host, advertise, expected in (("127.0.0.1", "node7", "node7:"), ("::1", None, "[::1]:")):
        one = Gateway(container_uuid=UUID, secret=SECRET, runtime=MemoryRuntime(), host=host, advertise=advertise)
        try:
            assert one.start().startswith(expected)
        finally:
            one.stop()


def test_taken_port(gateway: Gateway) -> None:
    """A port that is taken is a sentence, and the gateway that could not start can be stopped."""
    port = int(gateway.start().rpartition(":")[2])
    second = Gateway(container_uuid=UUID, secret=SECRET, runtime=MemoryRuntime(), port=port)
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
        second.start()
    second.stop()


def test_unstarted_gateway_can_be_stopped() -> None:
    """Stopping what was never started is no error."""
    Gateway(container_uuid=UUID, secret=SECRET, runtime=MemoryRuntime()).stop()


def test_an_ended_connection_is_not_kept(gateway: Gateway) -> None:
    """Nothing holds a connection's memory once it is over, not even the timer of its login."""
    connection, _ = opened(gateway.start())
    (kept,) = wait_for(lambda: [weakref.ref(one) for one in gateway._connections])
    connection.close()
    wait_for(lambda: not gateway._connections)
    gc.collect()
    wait_for(lambda: kept() is None)


def silent(host: str, port: int, source: str = "127.0.0.1") -> socket.socket:
    """Return a connection that sends the beginning of a TLS record and nothing more."""
    connection = socket.create_connection((host, port), DEADLINE, source_address=(source, 0))
    connection.sendall(b"\x16\x03\x01\x00")
    return connection


def closed(connection: socket.socket) -> bool:
    """Wait for the end of a connection."""
    with suppress(ConnectionResetError):
        assert connection.recv(1) == b""
    return True


def test_silent_connections(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of connections that prove nothing only the newest are kept; sessions go on, and others begin."""
    monkeypatch.setattr(gateway_module, "UNPROVEN_CONNECTIONS", 3)
    address = gateway.start()
    host, _, port = address.rpartition(":")
    connection, _ = opened(address)
    with ExitStack() as stack:
        flood = [stack.enter_context(silent(host, int(port))) for _ in range(10)]
        assert all(closed(one) for one in flood[:7])
        other, _ = opened(address)
        for kept in (connection, other):
            stack.enter_context(kept).sendall(b"SSH-2.0-test\r\n")
            assert kept.recv(1), "sessions go on"
        flood[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            flood[-1].recv(1)


def test_one_request_for_each_connection(gateway: Gateway) -> None:
    """A connection ends with a refusal: it cannot wait for ever among those that have sent a request."""
    with connected(gateway.start()) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert answer.count(b"HTTP/1.1 502 ") == 1 and b"connection: close" in answer.lower()


def test_memory_comes_back_without_a_login(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is given back after connections that never became sessions, too."""
    given = threading.Event()
    monkeypatch.setattr(gateway_module, "TIDY_AFTER", 0.01)
    monkeypatch.setattr(memory, "give_back", given.set)
    host, _, port = gateway.start().rpartition(":")
    silent(host, int(port)).close()
    assert given.wait(DEADLINE)
