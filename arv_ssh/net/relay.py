"""Two connections joined byte for byte, each direction for itself.

Owns: back-pressure (a side that cannot be written pauses the other's reading, so memory is bounded), half-close (EOF of
one side ends that direction only), and the end. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast


class RelayEnd(asyncio.Protocol):
    """One side of a relay: bytes that arrive here are written to ``other``. ``early`` are bytes already read."""

    other: RelayEnd

    def __init__(self, relay: Relay, early: bytes) -> None:
        self._relay = relay
        self._early = early
        self.transport: asyncio.Transport | None = None
        self.received = 0
        self.first_received: float | None = None
        """When the first byte came, in unix seconds."""
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = plain(transport)
        if self._relay.broken:
            self.transport.close()
        elif self.other.transport is not None:
            self._start()
            self.other._start()

    def _start(self) -> None:
        if self._early:
            early, self._early = self._early, b""
            self.data_received(early)
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if not self.received:
            self.first_received = time.time()
        self.received += len(data)
        if self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        if self.other.transport is not None:
            self.other.transport.write_eof()
        self._relay.direction_ended(self)
        return True

    def pause_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.side_lost(self, exc)


class Relay:
    """Join two connections until both directions have ended or either side is lost.

    ``a`` is an open, paused transport. The other side is given by :meth:`join`, or connects with the protocol ``b``
    (``loop.create_connection(lambda: relay.b, …)``), so that no byte can come before its receiver exists.
    ``early_a`` and ``early_b`` are bytes already read from each. ``done`` is called once, with the error that ended
    the relay or None, when both sides are closed; ``first_to_end`` is then the side whose EOF or loss came first.
    """

    def __init__(
        self,
        a: asyncio.Transport,
        *,
        early_a: bytes = b"",
        early_b: bytes = b"",
        done: Callable[[Relay, Exception | None], Any] | None = None,
    ) -> None:
        self.a, self.b = RelayEnd(self, early_a), RelayEnd(self, early_b)
        self.a.other, self.b.other = self.b, self.a
        self._done = done
        self._open = 2
        self._error: Exception | None = None
        self.first_to_end: RelayEnd | None = None
        a.set_protocol(self.a)
        self.a.connection_made(a)

    def join(self, b: asyncio.Transport) -> None:
        """Give the other side, an open and paused transport."""
        b.set_protocol(self.b)
        self.b.connection_made(b)

    def close(self) -> None:
        """End both directions, after writing the bytes already read."""
        for end in (self.a, self.b):
            if end.transport is not None:
                end.transport.close()

    def abort(self) -> None:
        """Cut both sides, even with bytes still to be written."""
        for end in (self.a, self.b):
            if end.transport is not None:
                end.transport.abort()

    @property
    def broken(self) -> bool:
        """Say whether a side is already lost: a side that connects later has no peer."""
        return self._open < 2

    def direction_ended(self, end: RelayEnd) -> None:
        """Note an EOF (called by an end); the second one closes both sides."""
        self.first_to_end = self.first_to_end or end
        if self.a.ended and self.b.ended:
            self.close()

    def side_lost(self, end: RelayEnd, exc: Exception | None) -> None:
        """Note that a side is gone (called by an end); the other one gets the bytes on their way and is closed."""
        self.first_to_end = self.first_to_end or end
        self._error = self._error or exc
        self._open -= 1
        if self._open:
            self.close()
        elif self._done is not None:
            self._done(self, self._error)


def plain(transport: asyncio.BaseTransport) -> asyncio.Transport:
    """Narrow the argument of ``connection_made`` to the type it always has for a stream."""
    return cast(asyncio.Transport, transport)
