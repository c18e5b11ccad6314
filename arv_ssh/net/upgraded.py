"""Client connections that have been upgraded (RFC 9110 §7.8), in an event loop: to a controller, over TCP or a socket.

Owns the way from a place and a request to a paused transport that belongs to the new protocol, or to the error that
the answer means. Knows nothing of what the request asks for.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from arv_ssh.errors import BadGateway, GatewayTimeout, HttpError, Unavailable
from arv_ssh.net import upgrade
from arv_ssh.net.relay import plain
from arv_ssh.net.tls_transport import TlsLayer

CONNECT_TIMEOUT = 10.0
"""Seconds for TCP and TLS."""


@dataclass(frozen=True)
class Address:
    """Where to connect: the unix socket ``path``, else ``host`` and ``port``, with TLS where there is a ``context``."""

    name: str
    host: str = ""
    port: int = 0
    context: ssl.SSLContext | None = None
    path: Path | None = None


@dataclass(frozen=True)
class Upgraded:
    """What a 101 left: the paused transport, the bytes that came with the answer, and the answer's headers."""

    transport: asyncio.Transport
    early: bytes
    headers: dict[str, str]


def place_of(url: str, context: ssl.SSLContext) -> Address:
    """Return the place of an ``http`` or ``https`` URL; ``context`` is for the latter."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host = parts.hostname or ""
    return Address(url, host, parts.port or (443 if secure else 80), context if secure else None)


async def open_upgraded(place: Address, request: bytes, protocol: str, *, answer_timeout: float) -> Upgraded:
    """Send ``request`` to ``place`` and return the connection once it has switched to ``protocol``.

    Raises :class:`Unavailable` (cannot be reached), :class:`GatewayTimeout`, :class:`BadGateway` (no HTTP, or cut), and
    any other answer as the error that its status and sentence mean. ``answer_timeout`` is in seconds, from the request.
    """
    exchange = _Exchange(place, request, protocol)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await _connect(place, exchange)
            await exchange.connected
        async with asyncio.timeout(answer_timeout):
            await exchange.answered
        if exchange.answer.status != 101:
            raise exchange.answer.error()
        return Upgraded(exchange.transport, exchange.answer.trailing, exchange.answer.headers)
    except TimeoutError as error:
        exchange.abort()
        raise GatewayTimeout(f"{place.name} did not answer in time") from error
    except OSError as error:
        exchange.abort()
        raise Unavailable(f"{place.name} cannot be reached ({error.strerror or error})") from error
    except BaseException:
        exchange.abort()
        raise


async def _connect(place: Address, exchange: _Exchange) -> None:
    loop = asyncio.get_running_loop()
    if place.path is not None:
        await loop.create_unix_connection(lambda: exchange, str(place.path))
    elif place.context is None:
        await loop.create_connection(lambda: exchange, place.host, place.port)
    else:
        layer = TlsLayer(place.context, exchange, server_side=False, server_hostname=place.host)
        exchange.layer = layer
        await loop.create_connection(lambda: layer, place.host, place.port)


class _Exchange(asyncio.Protocol):
    """One request and its answer on a fresh connection."""

    def __init__(self, place: Address, request: bytes, protocol: str) -> None:
        loop = asyncio.get_running_loop()
        self.connected: asyncio.Future[None] = loop.create_future()
        self.answered: asyncio.Future[None] = loop.create_future()
        self.answer = upgrade.UpgradeAnswer(place.name, protocol)
        self.layer: TlsLayer | None = None
        self.transport: asyncio.Transport
        self._name = place.name
        self._request = request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = plain(transport)
        self.transport.write(self._request)
        if not self.connected.done():
            self.connected.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._feed(data)

    def eof_received(self) -> bool:
        self._feed(b"")
        return False

    def _feed(self, data: bytes) -> None:
        try:
            complete = self.answer.receive(data)
        except HttpError as error:
            self._fail(error)
            return
        if complete and not self.answered.done():
            # What follows waits in the kernel until somebody takes the transport over.
            self.transport.pause_reading()
            self.answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, ssl.SSLError):
            reason = getattr(exc, "verify_message", "") or exc.reason or exc
            self._fail(BadGateway(f"{self._name} cannot be trusted ({reason})"))
        else:
            self._fail(BadGateway(f"{self._name} closed the connection{f' ({exc})' if exc else ''}"))

    def _fail(self, error: HttpError) -> None:
        for future in (self.connected, self.answered):
            if not future.done():
                future.set_exception(error)
                future.exception()  # read, so that a future nobody awaits any more is not reported

    def abort(self) -> None:
        """Cut the connection, if there is one."""
        if self.layer is not None:
            self.layer.abort_if_open()
        elif hasattr(self, "transport"):
            self.transport.abort()
