"""Doubles of asyncio's two halves for transcripts: a transport that writes down what is done to it, and a protocol."""

from __future__ import annotations

import asyncio
from typing import Any


class Wire(asyncio.Transport):
    """A transport without a socket: ``log`` is the transcript of what its protocol did to it.

    ``lose`` reports the end of the connection, as an event loop does some time after ``close``.
    """

    def __init__(self, log: list[str] | None = None, name: str = "") -> None:
        super().__init__({"peername": ("192.0.2.7", 4022)})
        self.log = log if log is not None else []
        self.name = f"{name} " if name else ""
        self.written = bytearray()
        self.protocol: Any = None
        self.reading = False
        self._closing = False

    def _note(self, what: str) -> None:
        self.log.append(self.name + what)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        self._note(f"<< {bytes(data)!r}")

    def write_eof(self) -> None:
        self._note("<< EOF")

    def pause_reading(self) -> None:
        self.reading = False
        self._note("pause")

    def resume_reading(self) -> None:
        self.reading = True
        self._note("resume")

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._note("close")

    def abort(self) -> None:
        self._closing = True
        self._note("abort")

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Take any."""

    # What the network does.

    def receive(self, data: bytes) -> None:
        self.protocol.data_received(data)

    def receive_eof(self) -> bool:
        return bool(self.protocol.eof_received())

    def lose(self, error: Exception | None = None) -> None:
        self._closing = True
        self.protocol.connection_lost(error)


class Peer(asyncio.Protocol):
    """The far end of a connection in an event loop, with its events to wait for."""

    def __init__(self, *, keep_open: bool = True) -> None:
        self.received = bytearray()
        self.error: Exception | None = None
        self.connected = asyncio.Event()
        self.eof = asyncio.Event()
        self.lost = asyncio.Event()
        self.arrived = asyncio.Event()
        self.resumed = asyncio.Event()
        self.resumed.set()
        self.transport: asyncio.Transport
        self._keep_open = keep_open

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.connected.set()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.arrived.set()

    def eof_received(self) -> bool:
        self.eof.set()
        self.arrived.set()
        return self._keep_open

    def pause_writing(self) -> None:
        self.resumed.clear()

    def resume_writing(self) -> None:
        self.resumed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.lost.set()
        self.arrived.set()
        self.resumed.set()

    async def until(self, size: int) -> bytes:
        """Return once ``size`` bytes have come."""
        while len(self.received) < size and not self.lost.is_set() and not self.eof.is_set():
            self.arrived.clear()
            await self.arrived.wait()
        return bytes(self.received)
