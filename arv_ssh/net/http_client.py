"""An HTTP/1.1 client for event loops, on h11: one request on a fresh connection, then its answer or another protocol.

Owns the connection (TCP, TLS by the house's own layer, a unix socket), both bodies in pieces, their limits and
time-outs, and the sentence for each way in which the exchange can fail. Knows nothing of what a request asks for.

:class:`Exchange` is HTTP without I/O: bytes out, bytes in, events out. :class:`ClientConnection` gives it a transport.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from urllib.parse import urlsplit

import h11

from arv_ssh.errors import BadGateway, GatewayTimeout, HttpError, Unavailable
from arv_ssh.net import upgrade
from arv_ssh.net.relay import plain
from arv_ssh.net.tls_transport import TlsLayer

CONNECT_TIMEOUT = 10.0
"""Seconds for TCP and TLS: every server dialled is in the cluster's own network."""
MAX_HEAD = 64 * 1024
"""Bytes of an answer's status line and headers: four times what nginx and HAProxy let through."""
_HTTP = b"HTTP/1."

Headers = Sequence[tuple[bytes, bytes]]


class Signal(Enum):
    """The other events of an exchange, besides heads and pieces of a body."""

    NEED_DATA = auto()
    END = auto()


@dataclass(frozen=True)
class Head:
    """The head of an answer; its header names are lower-case."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]

    def fields(self) -> dict[str, str]:
        """Return the headers as text, repeated ones joined with ", "."""
        found: dict[str, str] = {}
        for raw_name, raw_value in self.headers:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            found[name] = f"{found[name]}, {value}" if name in found else value
        return found


Event = Head | bytes | Signal
"""An informational, final or 101 head; a piece of the body; or a :class:`Signal`."""


class Exchange:
    """One request and its answer, without I/O. ``peer`` is how error sentences name the server.

    An exchange that asks for ``protocol`` ends with the head of a 101; :attr:`trailing` belongs to that protocol.
    Everything that goes wrong is raised as :class:`BadGateway`.
    """

    def __init__(self, peer: str, protocol: str = "") -> None:
        self.peer = peer
        self.protocol = protocol
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._start = b""  # the first bytes of the answer, until they are known to be HTTP's
        self._ended = False
        self._answered = False

    def request(self, method: str, target: str, headers: Headers) -> bytes:
        """Return the bytes of the request's head; raise ValueError for an invalid header."""
        try:
            return self._http.send(h11.Request(method=method, target=target, headers=list(headers))) or b""
        except h11.LocalProtocolError as error:
            raise ValueError("a request with an invalid header") from error  # its value is not shown: maybe a token

    def data(self, piece: bytes) -> bytes:
        """Return the bytes that send a piece of the request's body."""
        return self._http.send(h11.Data(data=piece)) or b""

    def finish(self) -> bytes:
        """Return the bytes that end the request's body."""
        return self._http.send(h11.EndOfMessage()) or b""

    def receive(self, data: bytes) -> None:
        """Store what arrived; empty means that the server's direction ended."""
        if len(self._start) < len(_HTTP):
            self._start += data[: len(_HTTP) - len(self._start)]
        self._ended = self._ended or not data
        self._http.receive_data(data)

    def next_event(self) -> Event:
        """Return the events in the stored bytes so far, in order."""
        # At once, and not at the end of a head that never comes: an SSH or a mail server waits for us to speak.
        if not _HTTP.startswith(self._start):
            raise BadGateway(f"{self.peer} does not answer in HTTP; check its host and port")
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise BadGateway(self._failure(error)) from error
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if isinstance(event, h11.InformationalResponse | h11.Response):
            return self._head(Head(event.status_code, bytes(event.reason), list(event.headers)))
        return Signal.NEED_DATA if event is h11.NEED_DATA else Signal.END

    @property
    def trailing(self) -> bytes:
        """Return the bytes after the head of a 101."""
        return self._http.trailing_data[0]

    def _head(self, head: Head) -> Head:
        self._answered = self._answered or head.status == 101 or head.status >= 200
        if head.status == 101 and head.fields().get("upgrade", "").lower() != self.protocol:
            raise BadGateway(f"{self.peer} switched to a protocol other than {upgrade.article(self.protocol)}")
        return head

    def _failure(self, error: h11.RemoteProtocolError) -> str:
        if self._ended and not self._answered:
            return f"{self.peer} closed the connection before it answered"
        if error.error_status_hint == 431:
            return f"{self.peer} answered with a header block of more than {MAX_HEAD} bytes"
        if self._ended:
            return f"{self.peer} closed the connection in the middle of its answer"
        return f"{self.peer} answered in invalid HTTP ({error})"


class ClientConnection(asyncio.Protocol):
    """An :class:`Exchange` on a connection. ``stall`` is how many seconds it may go without a byte in either direction.

    Reading pauses after each piece that arrives until the caller asks for more. So little waits in memory, and the
    bytes after a 101 wait in the kernel for their owner.
    """

    def __init__(self, peer: str, protocol: str = "", stall: float | None = None) -> None:
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport
        self.layer: TlsLayer | None = None
        """The TLS layer beneath, if any: it can be aborted before ``transport`` exists."""
        self._exchange = Exchange(peer, protocol)
        self._stall = stall
        self._last_byte = 0.0
        self._error: HttpError | None = None
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = plain(transport)
        self._note_byte()
        if not self.connected.done():
            self.connected.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.transport.pause_reading()
        self._exchange.receive(data)
        self._note_byte()
        self._changed.set()

    def eof_received(self) -> bool:
        self._exchange.receive(b"")
        self._changed.set()
        return True  # the request's body may still be on its way; the owner ends the connection

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        peer = self._exchange.peer
        if isinstance(exc, ssl.SSLError) and not self.connected.done():
            reason = getattr(exc, "verify_message", "") or exc.reason or exc
            self.fail(BadGateway(f"{peer} cannot be trusted ({reason})"))
        else:
            self.fail(BadGateway(f"{peer} closed the connection{f' ({exc})' if exc else ''}"))
        self._writable.set()

    # Called by the owner.

    @property
    def protocol(self) -> str:
        """Return the protocol to which the connection may switch, "" for none."""
        return self._exchange.protocol

    def fail(self, error: HttpError) -> None:
        """Raise ``error`` where the answer is awaited, once the bytes that did arrive are used up."""
        self._error = self._error or error
        self._changed.set()
        if not self.connected.done():
            self.connected.set_exception(error)
            self.connected.exception()  # read, so that asyncio does not report a future that is no longer awaited

    def send(self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes = b"") -> None:
        """Send a whole request; ``headers`` give the length of a body."""
        head = self._exchange.request(method, target, [(name.encode(), value.encode()) for name, value in headers])
        self.transport.write(head + self._exchange.data(body) + self._exchange.finish())

    def begin(self, method: str, target: str, headers: Headers) -> None:
        """Send the head of a request whose body follows by :meth:`write` and :meth:`finish`."""
        self.transport.write(self._exchange.request(method, target, headers))

    async def write(self, piece: bytes) -> None:
        """Send a piece of the body; return when the connection takes more. Raises OSError once it is lost."""
        self._check_writable()
        self.transport.write(self._exchange.data(piece))
        self._note_byte()
        await self._writable.wait()
        self._check_writable()

    def finish(self) -> None:
        """End the body."""
        self.transport.write(self._exchange.finish())

    async def head(self, on_continue: Callable[[], None] | None = None) -> Head:
        """Wait for the head of the answer: of a 101, or the final one. Call ``on_continue`` for each 100 before it."""
        while isinstance(event := await self._next_event(), Head):
            if event.status == 101 or event.status >= 200:
                return event
            if event.status == 100 and on_continue is not None:
                on_continue()
        raise BadGateway(f"{self._exchange.peer} closed the connection before it answered")

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Give the answer's body as it comes; raise when it breaks off."""
        while isinstance(event := await self._next_event(), bytes):
            yield event

    async def body(self, limit: int) -> bytes:
        """Return the answer's whole body; raise :class:`BadGateway` when it is over ``limit`` bytes."""
        found = bytearray()
        async for piece in self.pieces():
            found += piece
            if len(found) > limit:
                raise BadGateway(f"{self._exchange.peer} answered with more than {limit} bytes")
        return bytes(found)

    async def refusal(self, head: Head) -> HttpError:
        """Return the error meant by an answer other than the requested 101, in the server's words where it gave any."""
        kept = bytearray()
        try:
            async for piece in self.pieces():
                kept += piece
                if len(kept) > upgrade.BODY_LIMIT:
                    kept.clear()  # no sentence of ours is that long
                    break
        except HttpError:
            kept.clear()  # cut; the status still says what went wrong
        return upgrade.refusal(
            self._exchange.peer, head.status, head.reason.decode("latin-1"), bytes(kept), self._exchange.protocol
        )

    def take_over(self) -> tuple[asyncio.Transport, bytes]:
        """Return the paused transport after a 101, and the bytes that already belong to the new protocol."""
        return self.transport, self._exchange.trailing

    def abort(self) -> None:
        """Cut the connection, if there is one."""
        if self.layer is not None:
            self.layer.abort_if_open()
        elif hasattr(self, "transport"):
            self.transport.abort()

    async def _next_event(self) -> Event:
        while (event := self._exchange.next_event()) is Signal.NEED_DATA:
            if self._error is not None:
                raise self._error
            if not self.transport.is_closing():
                self.transport.resume_reading()
            self._changed.clear()
            await self._change()
        return event

    async def _change(self) -> None:
        """Wait until bytes come, but no longer than the exchange may stall."""
        self._note_byte()  # the time before this wait does not count
        if self._stall is None:
            await self._changed.wait()
        while self._stall is not None and not self._changed.is_set():
            deadline = self._last_byte + self._stall
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError as error:
                if self._last_byte + self._stall <= deadline:  # nothing was sent meanwhile either
                    raise GatewayTimeout(f"{self._exchange.peer} has sent nothing for {self._stall:g} s") from error

    def _check_writable(self) -> None:
        if self._error is not None or self.transport.is_closing():
            raise ConnectionResetError(f"{self._exchange.peer} has closed the connection")

    def _note_byte(self) -> None:
        if self._stall is not None:
            self._last_byte = asyncio.get_running_loop().time()


@dataclass(frozen=True)
class Address:
    """Where to connect: the unix socket ``path``, else ``host`` and ``port``, with TLS where there is a ``context``."""

    name: str
    host: str = ""
    port: int = 0
    context: ssl.SSLContext | None = None
    path: Path | None = None


def address_of(url: str, context: ssl.SSLContext, name: str = "") -> Address:
    """Return the address that an ``http`` or ``https`` URL leads to; ``context`` is for the latter."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    return Address(
        name or url, parts.hostname or "", parts.port or (443 if secure else 80), context if secure else None
    )


async def connect(address: Address, protocol: str = "", stall: float | None = None) -> ClientConnection:
    """Open a connection to ``address`` for one exchange, within :data:`CONNECT_TIMEOUT`.

    Raises :class:`Unavailable` (cannot be reached), :class:`GatewayTimeout`, :class:`BadGateway` (TLS failed).
    """
    connection = ClientConnection(address.name, protocol, stall)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await _open(address, connection)
            await connection.connected
        return connection
    except TimeoutError as error:
        connection.abort()
        raise GatewayTimeout(f"{address.name} did not answer in time; try again") from error
    except OSError as error:
        connection.abort()
        raise Unavailable(f"{address.name} cannot be reached ({error.strerror or error})") from error
    except BaseException:
        connection.abort()
        raise


async def _open(address: Address, connection: ClientConnection) -> None:
    loop = asyncio.get_running_loop()
    if address.path is not None:
        await loop.create_unix_connection(lambda: connection, str(address.path))
    elif address.context is None:
        await loop.create_connection(lambda: connection, address.host, address.port)
    else:
        layer = TlsLayer(address.context, connection, server_side=False, server_hostname=address.host)
        connection.layer = layer
        await loop.create_connection(lambda: layer, address.host, address.port)
