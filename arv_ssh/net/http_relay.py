"""Passing one request on over another connection, and its answer back, or the protocol that both switch to.

Owns which headers are for the next hop only (RFC 9110 §7.6.1), both bodies without keeping either, and WebSockets.
Knows neither where the connection leads nor what a request means.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import aclosing
from functools import partial

from arv_ssh.errors import BadRequest, HttpError
from arv_ssh.net.http_client import ClientConnection, Head
from arv_ssh.net.http_messages import Request, StreamedResponse, Upgrade
from arv_ssh.net.relay import Relay

HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
})  # fmt: skip
_FOR_ALL = frozenset({b"host", b"content-length"})
"""Headers that a Connection header cannot make one hop's (RFC 9110 §7.6.1): without them the message is another."""
WEBSOCKET = "websocket"
"""The only protocol that is switched to for a client. After a switch to HTTP/2 nobody could tell its requests apart."""
Headers = list[tuple[bytes, bytes]]


def end_to_end(headers: Headers) -> Headers:
    """Return the headers that are not for the next hop only; a length beside chunks does not count, and goes too.

    A server that believed such a length could be smuggled a request (RFC 9112 §6.3).
    """
    named = {
        token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")
    } - _FOR_ALL
    if any(name == b"transfer-encoding" for name, _ in headers):
        named.add(b"content-length")
    return [(name, value) for name, value in headers if name not in HOP_BY_HOP and name not in named]


def protocol_of(request: Request) -> str:
    """Return the protocol to which a request may switch its connection, "" for none.

    One with a body may not: the rest of that would be the new protocol's first bytes for one side only.
    """
    headers = request.headers
    bare = "transfer-encoding" not in headers and headers.get("content-length", "0").strip("0") == ""
    asked = headers.get("upgrade", "").strip().lower()
    return WEBSOCKET if asked == WEBSOCKET and request.method == "GET" and bare else ""


def request_headers(request: Request, without: Collection[bytes] = (), protocol: str = "") -> Headers:
    """Return the headers to pass on, in their order: end-to-end, and how the body and the connection go on from here.

    ``without`` are names, in lower case, of others to leave out. The connection is for this one request, or for
    ``protocol`` after it.
    """
    headers = [(name, value) for name, value in end_to_end(request.raw_headers) if name not in without]
    if b"host" not in without and not any(name == b"host" for name, _ in headers):
        headers.insert(0, (b"host", b""))  # HTTP/1.0 needs none, HTTP/1.1 does (RFC 9112 §3.2)
    if any(name == b"transfer-encoding" for name, _ in request.raw_headers):  # the body's length is unknown
        headers.append((b"transfer-encoding", b"chunked"))
    if protocol:
        return [*headers, (b"connection", b"Upgrade"), (b"upgrade", protocol.encode())]
    return [*headers, (b"connection", b"close")]


async def pass_on(
    connection: ClientConnection, request: Request, target: str, headers: Headers, *, stall: float,
    check: Callable[[Head], Headers] = lambda head: head.headers,
    joined: Callable[[Relay], object] = lambda relay: None, done: Callable[[], object] = lambda: None,
) -> StreamedResponse | Upgrade:  # fmt: skip
    """Send ``request`` to ``target`` with ``headers`` over a fresh ``connection``; return the answer once it begins.

    WebSockets need a connection and headers for :func:`protocol_of` the request. ``check`` is given the answer's head,
    and returns the headers to pass on, or raises. ``stall`` is in seconds: the longest that the request's body may go
    without a byte. ``joined`` is told of the relay of a connection that has switched. ``done`` is called once, when
    ``connection`` is closed, also where this raises.
    """
    exchange = _Exchange(connection, request, stall, done)
    try:
        return await exchange.begin(target, headers, check, joined)
    except BaseException:
        exchange.close()
        raise


class _Exchange(AsyncIterator[bytes]):
    """One request and its answer on a fresh connection, both bodies under way at once; the pieces of the answer's."""

    def __init__(
        self, connection: ClientConnection, request: Request, stall: float, done: Callable[[], object]
    ) -> None:
        self._connection = connection
        self._request = request
        self._stall = stall
        self._done = done
        self._pieces = connection.pieces()
        self._upload: asyncio.Task[None] | None = None

    async def begin(
        self, target: str, headers: Headers, check: Callable[[Head], Headers], joined: Callable[[Relay], object]
    ) -> StreamedResponse | Upgrade:
        """Send the head, start on the body, and return what the answer's head says, when it comes."""
        self._connection.begin(self._request.method, target, headers)
        self._upload = asyncio.get_running_loop().create_task(self._send_body())
        stream = self._request.stream
        head = await self._connection.head(on_continue=None if stream is None else stream.send_continue)
        passed = end_to_end(check(head))
        if head.status != 101:
            return StreamedResponse(head.status, head.reason, passed, self)
        text = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in passed]
        return Upgrade(self._connection.protocol, text, partial(self._join, joined))

    def _join(self, joined: Callable[[Relay], object], client: asyncio.Transport, early: bytes) -> None:
        server, trailing = self._connection.take_over()
        if server.is_closing():  # it told its old owner, and will tell no other
            client.abort()
            self._done()
            return
        relay = Relay(client, early_a=early, early_b=trailing, done=lambda relay, error: self._done())
        relay.join(server)
        joined(relay)

    async def _send_body(self) -> None:
        """Send the body as it comes. If the server stops taking it, its answer explains why."""
        try:
            async with aclosing(self._request.pieces()) as pieces:
                while piece := await self._next(pieces):
                    await self._connection.write(piece)
            self._connection.finish()
        except HttpError as error:  # the client's fault: without its body there can be no answer
            self._connection.fail(error)
        except OSError:
            pass

    async def _next(self, pieces: AsyncGenerator[bytes, None]) -> bytes:
        try:
            async with asyncio.timeout(self._stall):
                return await anext(pieces, b"")
        except TimeoutError as error:
            raise BadRequest(f"the request's body has stalled for {self._stall:g} s") from error

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        await self._pieces.aclose()
        self.close()

    def close(self) -> None:
        """Drop the connection, even with bytes on their way."""
        if self._upload is not None:
            self._upload.cancel()
        self._connection.abort()
        self._done()
