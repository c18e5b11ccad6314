"""yamux in an event loop: streams as transports, under the relay and TLS as those are, and how a session ends."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from arv_ssh.net.relay import Relay
from arv_ssh.net.tls import client_context
from arv_ssh.net.tls_transport import TlsLayer
from arv_ssh.yamux import core, stream, transport
from arv_ssh.yamux.frames import Flag, GoAway, Header, Type
from arv_ssh.yamux.transport import YamuxSession
from crunch_sshd.gateway import certificate
from tests.timing import DEADLINE, SECOND
from tests.unit.arv_ssh.streams import Peer, Wire

Scenario = Callable[["Ends"], Coroutine[Any, Any, None]]


class Ends:
    """Two sessions joined by a socketpair: ``near`` opens streams, ``far`` accepts them as what ``accept`` makes."""

    def __init__(self, accept: Callable[[], asyncio.BaseProtocol] | None = None) -> None:
        self.accepted: list[Peer] = []
        self.reasons: dict[str, Exception | None] = {}
        self.near = YamuxSession(client=False, closed=lambda _, error: self.reasons.update(near=error))
        self.far = YamuxSession(
            client=True, accept=accept or self._accept, closed=lambda _, error: self.reasons.update(far=error)
        )

    def _accept(self) -> Peer:
        self.accepted.append(Peer())
        return self.accepted[-1]

    async def join(self) -> None:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        await loop.create_connection(lambda: self.near, sock=near)
        await loop.create_connection(lambda: self.far, sock=far)

    async def stream(self) -> tuple[Peer, Peer]:
        """Open a stream; return the protocols of its two ends."""
        peer, before = Peer(), len(self.accepted)
        self.near.connect(peer)
        await until(lambda: len(self.accepted) > before)
        return peer, self.accepted[-1]


async def until(look: Callable[[], object]) -> None:
    """Let the loop run until there is something to see."""
    while not look():
        await asyncio.sleep(0)


def run(scenario: Scenario, accept: Callable[[], asyncio.BaseProtocol] | None = None) -> None:
    """Play a scenario with two sessions, and close them."""

    async def whole() -> None:
        ends = Ends(accept)
        await ends.join()
        await scenario(ends)
        ends.near.close()
        await until(lambda: ends.far.over and ends.near.over)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(whole(), DEADLINE))


def test_bytes_both_ways() -> None:
    """What is written on one end of a stream arrives on the other, and streams do not mix."""

    async def scenario(ends: Ends) -> None:
        (a, b), (c, d) = await ends.stream(), await ends.stream()
        a.transport.write(b"one")
        c.transport.write(b"two")
        assert await b.until(3) == b"one" and await d.until(3) == b"two"
        d.transport.write(b"back")
        assert await c.until(4) == b"back" and a.received == b""

    run(scenario)


def test_half_close() -> None:
    """The end of one direction leaves the other; both ended, the stream closes without an error."""

    async def scenario(ends: Ends) -> None:
        a, b = await ends.stream()
        assert a.transport.can_write_eof()
        a.transport.write(b"last")
        a.transport.write_eof()
        with pytest.raises(RuntimeError):
            a.transport.write(b"more")
        await b.eof.wait()
        assert b.received == b"last"
        b.transport.write(b"still")
        assert await a.until(5) == b"still" and not a.eof.is_set()
        b.transport.close()
        await b.lost.wait()
        await a.eof.wait()
        a.transport.close()
        await a.lost.wait()
        assert a.error is b.error is None

    run(scenario)


def test_close_sends_what_was_written() -> None:
    """Bytes written before close arrive, be they more than any window, and the end after them."""

    async def scenario(ends: Ends) -> None:
        a, b = await ends.stream()
        payload = os.urandom(3 * core.WINDOW)
        a.transport.write(payload)
        a.transport.close()
        assert a.transport.is_closing()
        await b.eof.wait()
        assert b.received == payload
        await a.lost.wait()

    run(scenario)


def test_slow_reader() -> None:
    """A stream whose reader pauses holds at most one window here and one high-water mark there; others go on."""

    async def scenario(ends: Ends) -> None:
        (a, b), (c, d) = await ends.stream(), await ends.stream()
        b.transport.pause_reading()
        payload, written = bytes(64 * 1024), 0
        while a.resumed.is_set():
            a.transport.write(payload)
            written += len(payload)
            await asyncio.sleep(0)
        assert written <= core.WINDOW + stream.HIGH_WATER + len(payload)
        assert a.transport.get_write_buffer_size() > stream.HIGH_WATER
        c.transport.write(b"past it")
        assert await d.until(7) == b"past it" and b.received == b""
        a.transport.write_eof()
        b.transport.resume_reading()
        await b.eof.wait()
        assert len(b.received) == written and a.resumed.is_set()

    run(scenario)


def test_a_connection_that_is_full() -> None:
    """What the connection below does not take stays with the streams, which pause their feeders."""

    async def scenario() -> None:
        wire, session, peer = Wire(), YamuxSession(client=False), Peer()
        session.take(wire)
        session.connect(peer)
        session.pause_writing()
        sent = len(wire.written)
        while peer.resumed.is_set():
            peer.transport.write(bytes(64 * 1024))
        assert len(wire.written) == sent and peer.transport.get_write_buffer_size() > stream.HIGH_WATER
        session.resume_writing()
        assert len(wire.written) >= sent + core.INITIAL_WINDOW
        session.connection_lost(None)
        await peer.lost.wait()

    asyncio.run(scenario())


def test_abort() -> None:
    """An abort ends both sides at once, the far one with an error."""

    async def scenario(ends: Ends) -> None:
        a, b = await ends.stream()
        a.transport.abort()
        await a.lost.wait()
        await b.lost.wait()
        assert a.error is None and isinstance(b.error, ConnectionResetError)

    run(scenario)


def test_a_lost_tunnel() -> None:
    """When the connection goes, every stream of both ends is lost with a reason, and nothing new can be opened."""

    async def scenario(ends: Ends) -> None:
        a, b = await ends.stream()
        assert ends.near._lower is not None
        ends.near._lower.abort()
        await a.lost.wait()
        await b.lost.wait()
        assert "the tunnel was lost" in str(a.error)
        assert "closed it" in str(b.error) or "tunnel was lost" in str(b.error)
        with pytest.raises(ConnectionResetError):
            ends.near.connect(Peer())
        assert set(ends.reasons) == {"near", "far"}

    run(scenario)


def test_closing_a_session() -> None:
    """A session closed on purpose ends without an error here, and with one for its streams on both ends."""

    async def scenario(ends: Ends) -> None:
        a, b = await ends.stream()
        ends.near.close()
        await a.lost.wait()
        await b.lost.wait()
        assert ends.reasons["near"] is None and a.error and b.error

    run(scenario)


def test_a_peer_that_may_open_nothing() -> None:
    """Without somebody to accept, a stream of the peer's is refused and the session goes on."""

    async def scenario(ends: Ends) -> None:
        a, b = await ends.stream()
        refused = Peer()
        ends.far.connect(refused)
        await refused.lost.wait()
        assert isinstance(refused.error, ConnectionResetError)
        a.transport.write(b"on")
        assert await b.until(2) == b"on"

    run(scenario)


def test_a_protocol_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """An exception of one stream's protocol ends that stream, is logged, and leaves the others."""

    class Failing(Peer):
        def data_received(self, data: bytes) -> None:
            raise LookupError("a defect")

    made: list[Peer] = []

    def accept() -> Peer:
        made.append(Peer() if made else Failing())
        return made[-1]

    async def scenario(ends: Ends) -> None:
        a, c = Peer(), Peer()
        ends.near.connect(a)
        ends.near.connect(c)
        a.transport.write(b"x")
        c.transport.write(b"x")
        await a.lost.wait()
        await until(lambda: len(made) > 1)
        assert await made[1].until(1) == b"x"

    run(scenario, accept)
    assert "a connection in a tunnel failed" in caplog.text


def test_a_dead_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that says nothing is asked, and given up after a while; each stream is told so."""
    monkeypatch.setattr(transport, "KEEPALIVE", 0.02)
    monkeypatch.setattr(transport, "DEAD_AFTER", 0.06)

    async def scenario() -> None:
        wire, session, peer = Wire(), YamuxSession(client=False), Peer()
        session.take(wire)
        session.connect(peer)
        await asyncio.wait_for(peer.lost.wait(), 10 * SECOND)
        assert Header(Type.PING, Flag.SYN, 0, 1).encode() in bytes(wire.written)
        assert isinstance(peer.error, TimeoutError) and "was silent for" in str(peer.error)
        assert wire.log[-1] == "abort"

    asyncio.run(scenario())


def test_a_quiet_but_living_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence on all streams is no death: the peer answers pings."""
    monkeypatch.setattr(transport, "KEEPALIVE", 0.02)
    monkeypatch.setattr(transport, "DEAD_AFTER", 1 * SECOND)

    async def scenario(ends: Ends) -> None:
        a, b = await ends.stream()
        pings = ends.near._core._ping
        await until(lambda: ends.near._core._ping >= pings + 4)
        a.transport.write(b"alive")
        assert await b.until(5) == b"alive"

    run(scenario)


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "broke the protocol: a frame has version 71"),
        (Header(Type.GO_AWAY, 0, 0, GoAway.INTERNAL_ERROR).encode(), "gave up on it"),
        (b"", "closed it"),
    ],
)
def test_a_peer_that_ends_it(wire: bytes, reason: str) -> None:
    """A breach, a GO_AWAY with an error and a bare end close the session; the reason says which."""

    async def scenario() -> None:
        ends: list[Exception | None] = []
        below, peer = Wire(), Peer()
        session = YamuxSession(client=False, closed=lambda _, error: ends.append(error))
        session.take(below)
        session.connect(peer)
        below.receive(wire) if wire else below.receive_eof()
        assert below.log[-1] == "close"
        await peer.lost.wait()
        assert reason in str(peer.error) and reason in str(ends[0])
        session.connection_lost(None)
        assert len(ends) == 1

    asyncio.run(scenario())


def test_early_bytes() -> None:
    """Frames that came glued to the handshake before are not lost."""

    async def scenario() -> None:
        wire, peer = Wire(), Peer()
        early = Header(Type.WINDOW_UPDATE, Flag.SYN, 2, 0).encode() + Header(Type.DATA, 0, 2, 3).encode() + b"abc"
        session = YamuxSession(client=True, accept=lambda: peer)
        session.take(wire, early)
        assert peer.received == b"abc" and wire.reading
        session.connection_lost(None)
        await peer.lost.wait()

    asyncio.run(scenario())


def test_a_closed_stream_that_the_peer_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that does not end its direction of a stream closed here has it reset after a while."""
    monkeypatch.setattr(transport, "LINGER", 0.02)

    async def scenario(ends: Ends) -> None:
        a, b = await ends.stream()
        a.transport.close()
        await a.lost.wait()
        await b.lost.wait()
        assert isinstance(b.error, ConnectionResetError)

    run(scenario)


def test_tls_and_relay_over_streams() -> None:
    """TLS runs over a stream and a relay joins two, unchanged: 8 MB arrive, and each half-close passes."""
    context, _ = certificate.fresh()
    servers: list[Peer] = []

    def accept() -> TlsLayer:
        servers.append(Peer())
        return TlsLayer(context, servers[-1], server_side=True)

    async def scenario(ends: Ends) -> None:
        client, hop = Peer(), Peer()
        outside = Ends()  # a client's connection, as a stream too
        await outside.join()
        user, served = await outside.stream()
        ends.near.connect(TlsLayer(client_context(insecure=True), hop, server_side=False))
        await hop.connected.wait()
        for end in (served, hop):
            end.transport.pause_reading()
        Relay(served.transport).join(hop.transport)
        payload = os.urandom(8 * 1024 * 1024)
        user.transport.write(payload)
        user.transport.write_eof()
        await until(lambda: servers and servers[0].eof.is_set())
        assert servers[0].received == payload and not user.eof.is_set()
        servers[0].transport.write(b"answer after your end")
        servers[0].transport.close()
        await user.eof.wait()
        assert user.received == b"answer after your end"
        user.transport.close()
        outside.near.close()
        await until(lambda: outside.far.over)
        assert not client.connected.is_set()

    run(scenario, accept)
