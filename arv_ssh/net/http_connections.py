"""The connections of one server that speak HTTP, and how they end when the server stops.

Owns the count of them and the order to drain. Must not know how a connection reads or answers.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Closable(Protocol):
    """A connection that can be between two requests."""

    def close_if_idle(self) -> None:
        """Close the connection if an answer was given on it and no byte of another request has come since."""


class Connections:
    """The connections that speak HTTP, from before their TLS handshake to their end or upgrade."""

    def __init__(self) -> None:
        self.draining = False
        self._open: set[Closable] = set()
        self._none = asyncio.Event()

    def add(self, connection: Closable) -> None:
        """Note a new one."""
        self._open.add(connection)
        self._none.clear()

    def discard(self, connection: Closable) -> None:
        """Note that a connection is closed or upgraded."""
        self._open.discard(connection)
        if not self._open:
            self._none.set()

    def drain(self) -> None:
        """Let each answer be the last of its connection, and close those between two requests now."""
        self.draining = True
        for connection in list(self._open):
            connection.close_if_idle()

    async def ended(self) -> None:
        """Wait until no connections are left."""
        if self._open:
            await self._none.wait()
