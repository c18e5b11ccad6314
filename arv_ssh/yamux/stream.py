"""One stream of a yamux connection as a transport like any other.

Owns a stream's side towards the protocol above it: back-pressure both ways, half-close, and an end reported once. Must
not know the connection below; :class:`Carrier` is all that a stream needs of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

from arv_ssh.yamux.core import Core

logger = logging.getLogger(__name__)

HIGH_WATER = 512 * 1024
"""Unsent bytes of a stream above which its writer must pause; as on a TLS connection."""


class Carrier(Protocol):
    """What carries streams: :class:`arv_ssh.yamux.transport.YamuxSession`."""

    def flush(self) -> None:
        """Send what the core has, as far as the connection below takes it."""

    def watch(self, stream: Stream) -> None:
        """Call the stream's :meth:`Stream.sent` after each :meth:`flush`, until :meth:`unwatch`."""

    def unwatch(self, stream: Stream) -> None:
        """Undo :meth:`watch`."""

    def forget(self, number: int) -> None:
        """Let go of a stream whose protocol gets no more calls."""


class Stream(asyncio.Transport):
    """One stream as a transport; its methods, and its calls to its protocol, are those of the standard library."""

    def __init__(self, carrier: Carrier, engine: Core, number: int, lower: asyncio.Transport | None) -> None:
        super().__init__()
        self._carrier = carrier
        self._core = engine
        self._number = number
        self._lower = lower
        self._protocol: asyncio.BaseProtocol
        self._held: deque[bytes] = deque()
        self._reading = True
        self._eof_came = False
        self._eof_told = False
        self._eof_written = False
        self._closing = False
        self._lost = False
        self._full = False
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4

    # Called by the carrier.

    def begin(self, protocol: asyncio.BaseProtocol) -> None:
        """Tell ``protocol`` that its connection is made."""
        self._protocol = protocol
        self._guard(lambda: self._protocol.connection_made(self))

    def received(self, data: bytes) -> None:
        """Deliver bytes that came, now or when reading is resumed; until then they count against the window."""
        if not self._closing:
            self._held.append(data)
            self._deliver()

    def ended(self) -> None:
        """Note the peer's end; the protocol is notified after the bytes before it."""
        self._eof_came = True
        self._deliver()

    def lost(self, error: Exception | None) -> None:
        """Let go of the stream and notify the protocol, once, when the loop gets to it."""
        if self._lost:
            return
        self._lost = self._closing = True
        self._held.clear()
        self._carrier.unwatch(self)
        self._carrier.forget(self._number)
        asyncio.get_running_loop().call_soon(self._guard, lambda: self._protocol.connection_lost(error))

    def sent(self) -> None:
        """Check what has gone out: a paused writer may go on, a closed stream may be done."""
        unsent = self._core.unsent(self._number)
        if self._full and unsent <= self._low:
            self._full = False
            if not self._closing:
                self._carrier.unwatch(self)
            self._guard(self._protocol.resume_writing)
        if self._closing and self._core.eof_sent(self._number):
            self.lost(None)

    def _deliver(self) -> None:
        while self._held and self._reading and not self._closing:
            data = self._held.popleft()
            self._guard(lambda data=data: self._hand_over(data))  # type: ignore[misc]
            self._core.consumed(self._number, len(data))
        if self._eof_came and not (self._eof_told or self._held or self._closing) and self._reading:
            self._eof_told = True
            self._guard(self._tell_eof)
        self._carrier.flush()

    def _hand_over(self, data: bytes) -> None:
        if isinstance(self._protocol, asyncio.BufferedProtocol):
            _copy_to(self._protocol, data)
        else:
            cast(asyncio.Protocol, self._protocol).data_received(data)

    def _tell_eof(self) -> None:
        if not cast(asyncio.Protocol, self._protocol).eof_received():
            self.close()

    def _guard(self, call: Callable[[], Any]) -> None:
        """Call the protocol; an exception from it ends this stream and not the others."""
        try:
            call()
        except Exception:
            logger.exception("a connection in a tunnel failed")
            self.abort()

    # The transport's side: called by the protocol above.

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return default  # the socket below is shared by all streams
        return self._lower.get_extra_info(name, default) if self._lower is not None else default

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading and not self._closing:
            self._reading = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._eof_written and not self._closing:
            raise RuntimeError("write() after write_eof()")
        if self._closing or not data:
            return
        self._core.send(self._number, data if isinstance(data, bytes) else bytes(data))
        self._carrier.flush()
        if not self._full and self._core.unsent(self._number) > self._high:
            self._full = True
            self._carrier.watch(self)
            self._guard(self._protocol.pause_writing)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._closing and not self._eof_written:
            self._eof_written = True
            self._core.send_eof(self._number)
            self._carrier.flush()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Send the bytes written so far, then the end; drop any that the peer still sends."""
        if self._closing:
            return
        self._closing = True
        self._held.clear()
        self._core.send_eof(self._number)
        self._carrier.watch(self)
        self._carrier.flush()

    def abort(self) -> None:
        if not self._lost:
            self._core.reset(self._number)
            self.lost(None)
            self._carrier.flush()

    def get_write_buffer_size(self) -> int:
        return self._core.unsent(self._number)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        self._high, self._low = high, high // 4 if low is None else low


def _copy_to(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    view = memoryview(data)
    while view:
        buffer = memoryview(cast(memoryview, protocol.get_buffer(len(view))))
        size = min(len(buffer), len(view))
        buffer[:size] = view[:size]
        protocol.buffer_updated(size)
        view = view[size:]
