"""Two connections joined byte for byte, each direction for itself.

Owns: back-pressure (a side that cannot be written pauses the other's reading, so memory is bounded), half-close (EOF of
one side ends that direction only), and the end. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast


class RelayEnd(asyncio.Protocol):
    """One side of a relay: what arrives here is written to ``other``."""

    other: RelayEnd

    def __init__(self, relay: Relay, transport: asyncio.Transport) -> None:
        self._relay = relay
        self.transport = transport
        self.received = 0
        self.ended = False

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self.other.transport.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        self.other.transport.write_eof()
        self._relay.direction_ended()
        return True

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.side_lost(exc)


class Relay:
    """Join the open transports ``a`` and ``b`` until both directions have ended or either side is lost.

    ``early_a`` and ``early_b`` are bytes already read from each, delivered first. ``done`` is called once, with the
    error that ended it or None, when both sides are closed.
    """

    def __init__(
        self,
        a: asyncio.Transport,
        b: asyncio.Transport,
        *,
        early_a: bytes = b"",
        early_b: bytes = b"",
        done: Callable[[Relay, Exception | None], Any] | None = None,
    ) -> None:
        self.a, self.b = RelayEnd(self, a), RelayEnd(self, b)
        self.a.other, self.b.other = self.b, self.a
        self._done = done
        self._open = 2
        self._error: Exception | None = None
        for end, early in ((self.a, early_a), (self.b, early_b)):
            end.transport.set_protocol(end)
            if early:
                end.data_received(early)
        for end in (self.a, self.b):
            # A side already over its high-water mark after the early bytes resumes through resume_writing.
            if not end.transport.is_closing():
                end.transport.resume_reading()

    def close(self) -> None:
        """End both directions, after what was already read is written."""
        self.a.transport.close()
        self.b.transport.close()

    def direction_ended(self) -> None:
        """Note an EOF (called by an end); the second one closes both sides."""
        if self.a.ended and self.b.ended:
            self.close()

    def side_lost(self, exc: Exception | None) -> None:
        """Note that a side is gone (called by an end); the other one gets what is on its way and is closed."""
        self._error = self._error or exc
        self._open -= 1
        if self._open:
            self.close()
        elif self._done is not None:
            self._done(self, self._error)


def plain(transport: asyncio.BaseTransport) -> asyncio.Transport:
    """Narrow what ``connection_made`` is given to the kind it always is for a stream."""
    return cast(asyncio.Transport, transport)
