"""One HTTP exchange passed on to another server: the request, its answer or its upgrade, and both bodies as they come.

Owns which headers are for the next hop only (RFC 9110 §7.6.1), the framing of a body whose length is unknown, and the end
of the exchange from either side. Knows nothing of what is asked, nor of whom.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from arv_ssh.errors import BadRequest, HttpError
from arv_ssh.net.http_client import ClientConnection, Head
from arv_ssh.net.http_messages import Request, StreamedResponse, Upgrade
from arv_ssh.net.relay import Relay

STALL_TIMEOUT = 300.0
"""Seconds that a request's body may go without a byte: the RequestTimeout of stock Arvados."""
HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
})  # fmt: skip
Headers = list[tuple[bytes, bytes]]


class RelayedExchange:
    """One request and its answer on a fresh connection to another server, both bodies under way at once."""

    def __init__(self, connection: ClientConnection, request: Request) -> None:
        self._connection = connection
        self._request = request
        self._upload: asyncio.Task[None] | None = None

    async def begin(self, method: str, target: str, headers: Headers) -> Head:
        """Send the head, start on the body, and return the answer's head when it comes."""
        self._connection.begin(method, target, headers)
        self._upload = asyncio.get_running_loop().create_task(self._send_body())
        go_on = self._request.stream.send_continue if self._request.stream is not None else None
        return await self._connection.head(on_continue=go_on)

    def answer(self, head: Head, headers: Headers) -> StreamedResponse:
        """Return the answer, with ``headers``, and the way to its body."""
        return StreamedResponse(head.status, head.reason, headers, self._pieces())

    def upgrade(self, protocol: str, headers: Headers) -> Upgrade:
        """Return the answer to a 101: the connections are joined once the client has it."""
        texts = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        return Upgrade(protocol, texts, self._join)

    def _join(self, client: asyncio.Transport, early: bytes) -> None:
        self._stop_sending()
        server, server_early = self._connection.take_over()
        Relay(client, early_a=early, early_b=server_early).join(server)

    async def _send_body(self) -> None:
        """Send the body as it comes. If the server stops taking it, its answer explains why."""
        try:
            async with aclosing(self._body()) as pieces:
                async for piece in pieces:
                    await self._connection.write(piece)
            self._connection.finish()
        except HttpError as error:  # the client's fault: without its body there can be no answer
            self._connection.fail(error)
        except OSError:
            pass

    async def _body(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._request.pieces()) as pieces:
            while True:
                try:
                    async with asyncio.timeout(STALL_TIMEOUT):
                        piece = await anext(pieces, b"")
                except TimeoutError as error:
                    raise BadRequest(f"the request's body has stalled for {STALL_TIMEOUT:g} s") from error
                if not piece:
                    return
                yield piece

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(self._connection.pieces()) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self.abort()

    def _stop_sending(self) -> None:
        if self._upload is not None:
            self._upload.cancel()

    def abort(self) -> None:
        """Drop the connection, even with bytes on their way."""
        self._stop_sending()
        self._connection.abort()


def end_to_end(headers: Headers) -> Headers:
    """Return the headers that are not for the next hop only."""
    named = {
        token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")
    }
    return [(name, value) for name, value in headers if name not in HOP_BY_HOP and name not in named]


def request_headers(received: Headers) -> Headers:
    """Return the end-to-end headers of a request, with a framing of its body that cannot be misunderstood."""
    headers = end_to_end(received)
    if any(name == b"transfer-encoding" for name, _ in received):  # the body's length is unknown
        # A length beside it is ignored, and must not be passed on (RFC 9112 §6.3): a server that believed it could be
        # smuggled a request.
        headers = [(name, value) for name, value in headers if name != b"content-length"]
        headers.append((b"transfer-encoding", b"chunked"))
    return headers


def asks_for_websocket(request: Request) -> bool:
    """Say whether a request wants to go on as a WebSocket (RFC 6455 §4.1)."""
    tokens = request.headers.get("connection", "").lower().replace(" ", "").split(",")
    return request.method == "GET" and "upgrade" in tokens and request.headers.get("upgrade", "").lower() == "websocket"
