"""A yamux stream as a transport, on a double of what carries it; whole connections are test_transport's."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from arv_ssh.yamux.core import Core
from arv_ssh.yamux.stream import Stream
from tests.timing import DEADLINE
from tests.unit.arv_ssh.streams import Peer


class Carrier:
    """Notes what a stream asks of the connection that carries it."""

    def __init__(self) -> None:
        self.watched: set[Stream] = set()
        self.forgotten: list[int] = []

    def flush(self) -> None:
        """Send nothing: what a stream writes stays in the core."""

    def watch(self, stream: Stream) -> None:
        self.watched.add(stream)

    def unwatch(self, stream: Stream) -> None:
        self.watched.discard(stream)

    def forget(self, number: int) -> None:
        self.forgotten.append(number)


def opened(protocol: asyncio.BaseProtocol) -> tuple[Stream, Carrier]:
    """Return a stream that ``protocol`` has been given."""
    core, carrier = Core(client=True), Carrier()
    stream = Stream(carrier, core, core.open(), None)
    stream.begin(protocol)
    return stream, carrier


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, DEADLINE))


def test_end_is_reported_once() -> None:
    """However many causes a stream has to end, its protocol and its carrier hear of the first."""

    async def scenario() -> None:
        peer = Peer()
        stream, carrier = opened(peer)
        stream.lost(ConnectionResetError("first"))
        stream.lost(ConnectionResetError("second"))
        stream.abort()
        await peer.lost.wait()
        assert str(peer.error) == "first" and len(carrier.forgotten) == 1

    run(scenario())


def test_end_comes_after_what_is_held() -> None:
    """A paused stream holds what came and the end behind it, until its protocol reads again."""

    async def scenario() -> None:
        peer = Peer()
        stream, _ = opened(peer)
        stream.pause_reading()
        stream.received(b"held")
        stream.ended()
        assert not peer.received and not peer.eof.is_set()
        stream.resume_reading()
        await peer.eof.wait()
        assert peer.received == b"held"

    run(scenario())


def test_writer_is_paused_while_its_bytes_are_unsent() -> None:
    """The protocol pauses above the high-water mark, and only then does the stream ask to hear what was sent."""

    async def scenario() -> None:
        peer = Peer()
        stream, carrier = opened(peer)
        stream.set_write_buffer_limits(high=10)
        stream.write(b"x" * 10)
        assert peer.resumed.is_set() and stream not in carrier.watched
        stream.write(b"x")
        assert not peer.resumed.is_set() and stream in carrier.watched
        stream.sent()  # as after each flush; nothing has gone out
        assert not peer.resumed.is_set()

    run(scenario())


class SmallBuffer(asyncio.BufferedProtocol):
    """Takes three bytes at a time."""

    def __init__(self) -> None:
        self.buffer = bytearray(3)
        self.taken = bytearray()

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.buffer)

    def buffer_updated(self, nbytes: int) -> None:
        self.taken += self.buffer[:nbytes]


def test_buffered_protocol() -> None:
    """A protocol with a buffer of its own gets everything, in pieces that fit."""

    async def scenario() -> None:
        protocol = SmallBuffer()
        stream, _ = opened(protocol)
        stream.received(b"0123456789")
        assert protocol.taken == b"0123456789"

    run(scenario())
