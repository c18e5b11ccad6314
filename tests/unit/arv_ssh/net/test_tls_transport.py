"""The TLS layer in an event loop: half-close, a cut, back-pressure, and a guest without TLS."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import ssl
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from arv_ssh.net import tls_transport
from arv_ssh.net.tls import TlsEngine, client_context
from arv_ssh.net.tls_transport import TlsLayer
from arv_ssh.net.unproven import Place, Unproven
from crunch_sshd.gateway import certificate
from tests.unit.arv_ssh.streams import Peer, Wire

CONTEXT, DER = certificate.fresh()
CLIENT = client_context(insecure=True)

Scenario = Callable[[Peer, Peer], Coroutine[Any, Any, None]]


def run(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(scenario, 30))


async def connected(client: asyncio.Protocol, server: asyncio.Protocol) -> tuple[TlsLayer, TlsLayer]:
    """Join two protocols by TLS over a socketpair."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    above = TlsLayer(CLIENT, client, server_side=False), TlsLayer(CONTEXT, server, server_side=True)
    await loop.create_connection(lambda: above[1], sock=far)
    await loop.create_connection(lambda: above[0], sock=near)
    return above


def over_tls(scenario: Scenario) -> None:
    async def whole() -> None:
        client, server = Peer(), Peer()
        await connected(client, server)
        await client.connected.wait()
        await server.connected.wait()
        await scenario(client, server)
        for peer in (client, server):
            peer.transport.close()
        await client.lost.wait()
        await server.lost.wait()

    run(whole())


def fed(app: Peer, size: int) -> tuple[TlsLayer, Wire, TlsEngine]:
    """Return a server layer after its handshake over a wire fed ``size`` bytes at a time, and its client's engine."""
    wire, client = Wire(), TlsEngine(CLIENT, server_side=False)
    layer = TlsLayer(CONTEXT, app, server_side=True)
    layer.connection_made(wire)
    while not client.handshake():
        feed(layer, client.outgoing(), size)
        client.receive(wire.written)
        wire.written.clear()
    feed(layer, client.outgoing(), size)
    return layer, wire, client


def feed(layer: TlsLayer, ciphertext: bytes, size: int) -> None:
    """Hand bytes to the layer as an event loop does."""
    for start in range(0, len(ciphertext), size):
        piece = ciphertext[start : start + size]
        layer.get_buffer(-1)[: len(piece)] = piece
        layer.buffer_updated(len(piece))


@pytest.mark.parametrize("size", [1, 10, 65536])
def test_in_pieces(size: int) -> None:
    """Handshake, data and both ends work however the bytes are cut."""

    async def scenario() -> None:
        app = Peer()
        layer, wire, client = fed(app, size)
        assert app.connected.is_set()
        client.write(b"question")
        feed(layer, client.outgoing(), size)
        assert app.received == b"question"
        client.write_eof()
        feed(layer, client.outgoing(), size)
        assert app.eof.is_set() and not wire.is_closing()
        layer.write(b"answer")
        layer.write_eof()
        client.receive(wire.written)
        assert client.read() == b"answer" and client.read() == b"" and client.eof

    run(scenario())


@pytest.mark.parametrize("first", ["client", "server"])
def test_half_close(first: str) -> None:
    """EOF from either side leaves the other direction open, and arrives after all data."""
    data = os.urandom(3_000_000)

    async def scenario(client: Peer, server: Peer) -> None:
        ending, other = (client, server) if first == "client" else (server, client)
        ending.transport.write(data)
        ending.transport.write_eof()
        await other.eof.wait()
        assert bytes(other.received) == data and not ending.eof.is_set()
        other.transport.write(data)
        assert await ending.until(len(data)) == data
        other.transport.write_eof()
        await ending.eof.wait()
        assert client.error is None and server.error is None

    over_tls(scenario)


def test_eof_that_nobody_keeps_open_closes() -> None:
    """A protocol that does not ask to stay open at EOF is closed, with a close_notify of its own."""

    async def scenario() -> None:
        client, server = Peer(), Peer(keep_open=False)
        await connected(client, server)
        await client.connected.wait()
        client.transport.write_eof()
        await client.eof.wait()
        await server.lost.wait()
        client.transport.close()
        await client.lost.wait()
        assert server.error is None and client.error is None

    run(scenario())


def test_cut_is_an_error() -> None:
    """A connection that ends without close_notify is lost with an error; what came before is delivered."""

    async def scenario() -> None:
        app = Peer()
        layer, wire, client = fed(app, 65536)
        client.write(b"half of it")
        feed(layer, client.outgoing(), 65536)
        layer.eof_received()
        assert wire.is_closing()
        layer.connection_lost(None)
        assert app.received == b"half of it"
        assert isinstance(app.error, ssl.SSLError) and not app.eof.is_set()

    run(scenario())


def test_reset_is_an_error() -> None:
    """A connection that is reset is lost with the reset."""

    async def scenario() -> None:
        app = Peer()
        layer, _, _ = fed(app, 65536)
        layer.connection_lost(ConnectionResetError("reset"))
        assert isinstance(app.error, ConnectionResetError)

    run(scenario())


def test_last_words_before_a_write_that_fails() -> None:
    """What the peer said before it closed is delivered even if something was written to it before that was read."""

    async def scenario() -> None:
        app, client = Peer(), TlsEngine(CLIENT, server_side=False)
        near, far = socket.socketpair()
        layer = TlsLayer(CONTEXT, app, server_side=True)
        await asyncio.get_running_loop().create_connection(lambda: layer, sock=far)
        with near:
            while not client.handshake():
                near.sendall(client.outgoing())
                client.receive(await asyncio.to_thread(near.recv, 65536))
            near.sendall(client.outgoing())
            await app.connected.wait()
            client.write(b"goodbye")
            client.write_eof()
            near.sendall(client.outgoing())
        layer.write(b"too late")
        await app.lost.wait()
        assert isinstance(app.error, BrokenPipeError)
        assert app.received == b"goodbye" and app.eof.is_set()

    run(scenario())


def test_broken_record_met_while_closing() -> None:
    """Closing a paused connection whose unread bytes are broken ends it with that error and raises nothing."""

    async def scenario() -> None:
        app = Peer()
        layer, wire, client = fed(app, 65536)
        app.data_received = lambda data: layer.pause_reading()  # type: ignore[method-assign]
        client.write(bytes(300_000))
        broken = bytearray(client.outgoing())
        broken[-1] ^= 1
        layer._engine.receive(broken)
        layer._run()
        layer.close()
        assert wire.is_closing()
        layer.connection_lost(None)
        assert isinstance(app.error, ssl.SSLError)

    run(scenario())


@pytest.mark.parametrize("slow", ["client", "server"])
def test_back_pressure(slow: str) -> None:
    """A writer is told to pause while its reader is paused, nothing piles up, and nothing is lost or reordered."""
    data = os.urandom(1 << 20) * 24

    async def scenario(client: Peer, server: Peer) -> None:
        reader, writer = (client, server) if slow == "client" else (server, client)
        reader.transport.pause_reading()
        assert not reader.transport.is_reading()
        sent = 0
        while writer.resumed.is_set():
            writer.transport.write(data[sent : sent + 65536])
            sent += 65536
            await asyncio.sleep(0)
        assert sent < 4 << 20
        assert writer.transport.get_write_buffer_size() < 1 << 20
        assert len(reader.received) < 1 << 20
        reader.transport.resume_reading()
        while sent < len(data):
            await writer.resumed.wait()
            writer.transport.write(data[sent : sent + 65536])
            sent += 65536
        writer.transport.write_eof()
        await reader.eof.wait()
        assert bytes(reader.received) == data

    over_tls(scenario)


def test_pause_holds_back_what_came_in_the_same_packet() -> None:
    """A reader that pauses is told nothing more, not even an end that has arrived, until it resumes."""

    async def scenario() -> None:
        app = Peer()
        layer, _, client = fed(app, 65536)

        class Stubborn(Peer):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                layer.pause_reading()

        stubborn = Stubborn()
        layer.set_protocol(stubborn)
        assert layer.get_protocol() is stubborn
        client.write(b"data")
        client.write_eof()
        feed(layer, client.outgoing(), 65536)
        assert stubborn.received == b"data" and not stubborn.eof.is_set()
        layer.resume_reading()
        await stubborn.eof.wait()

    run(scenario())


def test_transport_that_half_closes_after_close_notify() -> None:
    """A peer that ends its TLS direction and then TCP's too can still be written to."""

    async def scenario() -> None:
        app = Peer()
        layer, wire, client = fed(app, 65536)
        client.write_eof()
        feed(layer, client.outgoing(), 65536)
        assert layer.eof_received(), "the transport below must stay open"
        layer.write(b"answer")
        client.receive(wire.written)
        assert client.read() == b"answer"

    run(scenario())


def test_plain_http_gets_a_sentence() -> None:
    """Who speaks HTTP without TLS reads in JSON what is wrong, and the app never hears of the connection."""

    async def scenario() -> None:
        app, guest = Peer(), Peer()
        near, far = socket.socketpair()
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: TlsLayer(CONTEXT, app, server_side=True), sock=far)
        await loop.create_connection(lambda: guest, sock=near)
        guest.transport.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await guest.eof.wait()
        head, _, body = bytes(guest.received).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert "https://" in json.loads(body)["errors"][0]
        await app.lost.wait()
        assert isinstance(app.error, ssl.SSLError) and not app.connected.is_set()
        guest.transport.close()

    run(scenario())


def test_garbage_is_refused() -> None:
    """What is neither TLS nor HTTP is closed with an alert and without an answer in clear text."""

    async def scenario() -> None:
        app, wire = Peer(), Wire()
        layer = TlsLayer(CONTEXT, app, server_side=True)
        layer.connection_made(wire)
        feed(layer, b"SSH-2.0-OpenSSH_9.2\r\n", 100)
        assert wire.is_closing() and b"HTTP" not in wire.written
        layer.connection_lost(None)
        assert isinstance(app.error, ssl.SSLError) and not app.connected.is_set()

    run(scenario())


def test_after_the_end_nothing_is_written() -> None:
    """Writes after our own end, and on a lost connection, are dropped without an error."""

    async def scenario() -> None:
        app = Peer()
        layer, wire, _ = fed(app, 65536)
        layer.write_eof()
        wire.written.clear()
        layer.write(b"too late")
        layer.write_eof()
        assert wire.written == b""
        layer.connection_lost(None)
        layer.write(b"later still")
        layer.close()
        layer.abort_if_open()
        assert wire.written == b"" and "abort" not in wire.log

    run(scenario())


def test_abort() -> None:
    """Aborting a layer aborts the transport below; before there is one, it does nothing."""

    async def scenario() -> None:
        fresh = TlsLayer(CLIENT, Peer(), server_side=False)
        fresh.abort_if_open()
        layer, wire, _ = fed(Peer(), 65536)
        layer.abort_if_open()
        assert wire.log[-1] == "abort" and layer.is_closing()

    run(scenario())


def test_extra_info() -> None:
    """The certificate comes from TLS, all else from the transport below."""

    async def scenario() -> None:
        client, server = Peer(), Peer()
        near, _ = await connected(client, server)
        await client.connected.wait()
        await server.connected.wait()
        assert client.transport.get_extra_info("peer_certificate") == DER
        assert isinstance(client.transport.get_extra_info("socket"), object)
        assert near.can_write_eof() and near.get_extra_info("unknown", 7) == 7
        client.transport.close()
        server.transport.close()
        await client.lost.wait()
        await server.lost.wait()

    run(scenario())


def test_a_silent_handshake_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects and does not speak TLS is cut off after the handshake's time."""
    monkeypatch.setattr(tls_transport, "HANDSHAKE_TIMEOUT", 0.05)

    async def scenario() -> None:
        app, guest = Peer(), Peer()
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        await loop.create_connection(lambda: TlsLayer(CONTEXT, app, server_side=True), sock=far)
        await loop.create_connection(lambda: guest, sock=near)
        await guest.eof.wait()
        guest.transport.close()
        await app.lost.wait()
        assert not app.connected.is_set()

    run(scenario())


def test_a_handshake_in_time_has_all_the_time_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the handshake nothing of its time-out is left."""
    monkeypatch.setattr(tls_transport, "HANDSHAKE_TIMEOUT", 0.2)

    async def scenario(client: Peer, server: Peer) -> None:
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(0.3, over.set)
        await over.wait()
        assert not client.lost.is_set() and not server.lost.is_set()

    over_tls(scenario)


def test_closing_does_not_wait_for_who_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed connection whose peer does not take what is on its way is cut after a time."""
    monkeypatch.setattr(tls_transport, "LINGER", 0.05)

    async def scenario(client: Peer, server: Peer) -> None:
        client.transport.pause_reading()
        server.transport.write(os.urandom(8 << 20))
        server.transport.close()
        await server.lost.wait()
        client.transport.abort()

    over_tls(scenario)


def test_detached() -> None:
    """A connection that leaves the event loop has sent all that was written, and goes on on its socket."""

    async def scenario() -> None:
        client, server = Peer(), Peer()
        above, below = await connected(client, server)
        await client.connected.wait()
        await server.connected.wait()
        text = os.urandom(1 << 20)
        below.pause_reading()
        below.write(text)
        sock, engine = await below.detach()
        with sock:
            while len(client.received) < len(text):
                await asyncio.sleep(0)
            assert bytes(client.received) == text
            above.write(b"to whom it concerns")
            while not (said := engine.read()):
                engine.receive(await asyncio.to_thread(sock.recv, 65536))
            assert said == b"to whom it concerns"
        await client.lost.wait()
        assert not server.lost.is_set()

    run(scenario())


def test_lost_before_it_is_detached() -> None:
    """A connection whose peer leaves while something is still to be sent to it cannot be detached."""

    async def scenario() -> None:
        client, server = Peer(), Peer()
        above, below = await connected(client, server)
        await client.connected.wait()
        await server.connected.wait()
        above.pause_reading()
        below.pause_reading()
        below.write(bytes(64 << 20))
        detaching = asyncio.create_task(below.detach())
        await asyncio.sleep(0)
        above.abort()
        with pytest.raises(OSError):
            await detaching
        await server.lost.wait()
        with pytest.raises(OSError):
            await below.detach()

    run(scenario())


def test_place_among_the_unproven() -> None:
    """A connection has a place, is answered once its peer's handshake has come, and is dropped for another."""

    async def scenario() -> None:
        unproven = Unproven(lambda: 1)
        place, wire, client = Place(unproven), Wire(), TlsEngine(CLIENT, server_side=False)
        layer = TlsLayer(CONTEXT, Peer(), server_side=True, place=place)
        layer.connection_made(wire)
        assert len(unproven) == 1 and place.source == "192.0.2.7"
        client.handshake()
        hello = client.outgoing()
        feed(layer, hello[:4], 4)
        assert not place.answered
        feed(layer, hello[4:], 65536)
        assert place.answered
        Place(unproven).take(("192.0.2.7", 1), lambda: None)
        assert wire.is_closing()
        layer.connection_lost(None)
        assert len(unproven) == 1, "the other one's"

    run(scenario())


def test_lost_connections_leave_their_place() -> None:
    """A connection that is lost before a request has no place any more."""

    async def scenario() -> None:
        unproven = Unproven(lambda: 1)
        layer = TlsLayer(CONTEXT, Peer(), server_side=True, place=Place(unproven))
        layer.connection_made(Wire())
        layer.connection_lost(None)
        assert len(unproven) == 0

    run(scenario())


@pytest.mark.parametrize("begin", [b"", b"\x16\x03\x01\x00", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_a_lost_connection_is_not_kept(begin: bytes) -> None:
    """Nothing holds a connection that is gone: OpenSSL's memory must not wait for the garbage collector."""

    async def scenario() -> None:
        near, far = socket.socketpair()
        lost = asyncio.Event()

        class App(asyncio.Protocol):
            def connection_lost(self, exc: Exception | None) -> None:
                lost.set()  # and keeps nothing: an error has the layer in its traceback

        layer = TlsLayer(CONTEXT, App(), server_side=True, place=Place(Unproven(lambda: 1)))
        kept = weakref.ref(layer)
        made = [layer]
        del layer
        await asyncio.get_running_loop().create_connection(made.pop, sock=far)
        near.sendall(begin)
        near.close()
        await lost.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        assert kept() is None

    gc.disable()
    try:
        run(scenario())
    finally:
        gc.enable()
