"""The body of a request as it comes, for a handler that passes it on instead of keeping it.

Owns the bound on bytes waiting in memory: a slow reader makes the client wait. Knows nothing of HTTP's framing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from arv_ssh.errors import HttpError

HIGH_WATER = 256 * 1024
"""Bytes that may wait to be read; one read of a TLS connection may bring that many anyway."""


class RequestStream:
    """A request's body, by :meth:`read`.

    ``pause`` and ``resume`` stop and start the client; ``send_continue`` answers an ``Expect: 100-continue``.
    """

    def __init__(
        self,
        *,
        pause: Callable[[], None],
        resume: Callable[[], None],
        send_continue: Callable[[], None],
    ) -> None:
        self.send_continue = send_continue
        self._pause = pause
        self._resume = resume
        self._waiting = bytearray()
        self._paused = False
        self._ended = False
        self._error: HttpError | None = None
        self._changed = asyncio.Event()

    async def read(self) -> bytes:
        """Wait for bytes and return them; b"" is the body's end. Raises the connection's error if it failed."""
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            self._changed.clear()
            await self._changed.wait()
        data, self._waiting = bytes(self._waiting), bytearray()
        if self._paused:
            self._paused = False
            self._resume()
        return data

    def feed(self, data: bytes) -> None:
        """Take a piece of the body (called by the connection)."""
        self._waiting += data
        if len(self._waiting) > HIGH_WATER and not self._paused:
            self._paused = True
            self._pause()
        self._changed.set()

    def feed_end(self) -> None:
        """Note the body's end (called by the connection)."""
        self._ended = True
        self._changed.set()

    def fail(self, error: HttpError) -> None:
        """Note that the body will never be complete (called by the connection)."""
        self._error = error
        self._changed.set()
