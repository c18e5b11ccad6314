"""A TLS connection that one thread reads while another sends: exactness, its end, and a cut."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from arv_ssh.net.tls import TlsEngine, client_context
from crunch_sshd.gateway import certificate
from crunch_sshd.ssh.buffered_socket import RECEIVE_SIZE
from crunch_sshd.ssh.tls_socket import TlsSocket
from tests.unit.crunch_sshd.double import DEADLINE

SERVER = certificate.fresh()[0]
CLIENT = client_context(insecure=True)
TALK = os.urandom(1 << 20) * 5
"""More than all buffers between two ends hold."""


@pytest.fixture
def ends() -> Iterator[tuple[TlsSocket, ssl.SSLSocket]]:
    """A server's end after its handshake, and the client's."""
    ours, theirs = make_ends()
    with theirs:
        yield ours, theirs
    ours.close()


def make_ends(early: bytes = b"") -> tuple[TlsSocket, ssl.SSLSocket]:
    near, far = socket.socketpair()
    client: list[ssl.SSLSocket] = []
    handshake = threading.Thread(target=lambda: client.append(CLIENT.wrap_socket(far)))
    handshake.start()
    engine = TlsEngine(SERVER, server_side=True)
    while not engine.handshake():
        near.sendall(engine.outgoing())
        engine.receive(near.recv(65536))
    near.sendall(engine.outgoing())
    handshake.join()
    client[0].settimeout(DEADLINE)
    ours = TlsSocket(near, engine, early)
    ours.settimeout(None)
    return ours, client[0]


def handshaken() -> list[tuple[socket.socket, TlsEngine]]:
    """Return two sockets that are joined, each with its engine after the handshake."""
    socks = socket.socketpair()
    server, client = TlsEngine(SERVER, server_side=True), TlsEngine(CLIENT, server_side=False)
    while not all([client.handshake(), server.handshake()]):
        for one, other in ((client, server), (server, client)):
            if said := one.outgoing():
                other.receive(said)
    return list(zip(socks, (server, client), strict=True))


def received(sock: TlsSocket, size: int) -> bytes:
    """Return the next ``size`` bytes, or what comes before the end."""
    found = b""
    while len(found) < size and (data := sock.recv(size - len(found))):
        found += data
    return found


def test_both_directions_at_once() -> None:
    """Two threads use the one engine at the same time, and every byte arrives in its place."""
    near, far = (TlsSocket(sock, engine) for sock, engine in handshaken())
    got: dict[str, bytes] = {}

    def read(name: str, sock: TlsSocket) -> None:
        got[name] = received(sock, len(TALK))

    threads = [
        threading.Thread(target=work, args=arguments)
        for work, arguments in (
            (near.send, (TALK,)), (far.send, (TALK,)),
            (read, ("near", near)), (read, ("far", far)),
        )
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert got["near"] == TALK
    assert got["far"] == TALK
    near.close()
    far.close()


def test_early_bytes_come_first() -> None:
    """What was read before the connection changed hands is the beginning."""
    ours, theirs = make_ends(early=b"glued ")
    with theirs:
        theirs.sendall(b"to the request")
        assert received(ours, 20) == b"glued to the request"
    ours.close()


def test_goodbye(ends: tuple[TlsSocket, ssl.SSLSocket]) -> None:
    """Closing says goodbye, so that the peer sees an end and not a cut, also when it has sent what nobody read."""
    ours, theirs = ends
    theirs.sendall(b"unread")
    ours.send(b"last words")
    ours.close()
    assert theirs.recv(100) == b"last words"
    assert theirs.recv(100) == b""


@pytest.mark.parametrize("orderly", [True, False])
def test_the_peers_end(orderly: bool) -> None:
    """An end and a cut both end the stream after all that came before; only a cut is a failure."""
    (near, server), (far, client) = handshaken()
    ours = TlsSocket(near, server)
    with far:
        client.write(b"all")
        if orderly:
            client.write_eof()
        far.sendall(client.outgoing())
    assert received(ours, 100) == b"all"
    assert (ours.failure is None) == orderly
    ours.close()


@pytest.mark.parametrize("orderly", [True, False])
def test_what_comes_together_with_data(orderly: bool) -> None:
    """An end, or a record that was changed, right behind data is noticed though nothing more comes and all is open."""
    (near, server), (far, client) = handshaken()
    ours = TlsSocket(near, server)
    with far:
        client.write(b"all")
        said = client.outgoing()
        if orderly:
            client.write_eof()
            said += client.outgoing()
        else:
            client.write(b"changed")
            said += client.outgoing()[:-1] + b"?"
        far.sendall(said)
        near.settimeout(DEADLINE)
        assert received(ours, 100) == b"all" and ours.recv(100) == b""
    assert (ours.failure is None) == orderly
    ours.close()


def test_records_in_pieces() -> None:
    """A record that comes byte by byte is read once it is whole, and a room that is filled is not the end of it."""
    (near, server), (far, client) = handshaken()
    ours = TlsSocket(near, server)
    with far:
        client.write(b"first")
        for one in client.outgoing():
            far.sendall(bytes([one]))
        assert received(ours, 5) == b"first"
        data = os.urandom(3 * RECEIVE_SIZE)
        client.write(data)
        sender = threading.Thread(target=far.sendall, args=(client.outgoing(),))
        sender.start()
        assert received(ours, len(data)) == data
        sender.join()
    ours.close()


def test_close_wakes_a_sender_and_a_reader(ends: tuple[TlsSocket, ssl.SSLSocket]) -> None:
    """A sender whose peer takes nothing, and a reader to whom nothing comes, go on at once when it is closed."""
    ours, _ = ends
    failed = threading.Event()

    def send() -> None:
        try:
            while True:
                ours.send(TALK)
        except OSError:
            failed.set()

    ended = threading.Event()

    def read() -> None:
        try:
            while True:
                try:
                    if not ours.fill():
                        break
                except TimeoutError:
                    continue
        finally:
            ended.set()

    for work in (send, read):
        threading.Thread(target=work, daemon=True).start()
    while not ours._sending.locked():
        pass
    ours.close()
    assert failed.wait(DEADLINE)
    assert ended.wait(DEADLINE)
    assert ours.failure is None  # it was we who ended it
