"""Passing requests on to the API host, and its answers back, as they come (``PassThrough: true``).

Owns one exchange with the API host: which headers are for the next hop only (RFC 9110 §7.6.1), both bodies without
keeping either, and the error that a client reads when the API host fails. Knows nothing of what the requests mean. Each
exchange has a connection of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import urlsplit

from arv_ssh.errors import BadRequest, HttpError
from arv_ssh.net import tls
from arv_ssh.net.http_client import ClientConnection, address_of, connect
from arv_ssh.net.http_messages import Request, StreamedResponse, origin_form
from arv_ssh.net.request_stream import RequestStream

STALL_TIMEOUT = 300.0
"""Seconds that an exchange may go without a byte: the RequestTimeout of stock Arvados."""
HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
})  # fmt: skip
Headers = list[tuple[bytes, bytes]]


class PassThrough:
    """Passes requests on to the API at ``url``. ``verify`` is as for :class:`arv_ssh.api.client.ApiClient`."""

    def __init__(self, url: str, verify: bool | str) -> None:
        parts = urlsplit(url)
        context = tls.client_context(insecure=not verify, ca_file=verify if isinstance(verify, str) else None)
        self._netloc = parts.netloc
        self._prefix = parts.path.rstrip("/")
        self._address = address_of(url, context, name=f"the API host {parts.netloc}")

    async def handle(self, request: Request) -> StreamedResponse:
        """Pass one request on; return the head of the answer and the way to its body."""
        assert request.stream is not None  # noqa: S101 - these requests are streamed
        target = self._prefix + _path(request.target)
        headers = _request_headers(self._netloc, request, request.raw_headers)
        exchange = _Exchange(await connect(self._address, stall=STALL_TIMEOUT), request.stream)
        try:
            return await exchange.begin(request.method, target, headers)
        except BaseException:
            exchange.abort()
            raise


class _Exchange:
    """One request and its answer on a fresh connection to the API host, both bodies under way at once."""

    def __init__(self, connection: ClientConnection, body: RequestStream) -> None:
        self._connection = connection
        self._body = body
        self._upload: asyncio.Task[None] | None = None

    async def begin(self, method: str, target: str, headers: Headers) -> StreamedResponse:
        """Send the head, start on the body, and return the answer's head when it comes."""
        self._connection.begin(method, target, headers)
        self._upload = asyncio.get_running_loop().create_task(self._send_body())
        head = await self._connection.head(on_continue=self._body.send_continue)
        return StreamedResponse(head.status, head.reason, _end_to_end(head.headers), self._pieces())

    async def _send_body(self) -> None:
        """Send the body as it comes. If the API host stops taking it, the host's answer explains why."""
        try:
            while piece := await self._piece():
                await self._connection.write(piece)
            self._connection.finish()
        except HttpError as error:  # the client's fault: without its body there can be no answer
            self._connection.fail(error)
        except OSError:
            pass

    async def _piece(self) -> bytes:
        try:
            async with asyncio.timeout(STALL_TIMEOUT):
                return await self._body.read()
        except TimeoutError as error:
            raise BadRequest(f"the request's body has stalled for {STALL_TIMEOUT:g} s") from error

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(self._connection.pieces()) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self.abort()

    def abort(self) -> None:
        """Drop the connection, even with bytes on their way."""
        if self._upload is not None:
            self._upload.cancel()
        self._connection.abort()


def _path(target: bytes) -> str:
    path = origin_form(target.decode("latin-1"))
    if not path.startswith("/"):  # a URL of another scheme, whose host the API host would use
        raise BadRequest("the request's target is neither a path nor an http or https URL")
    return path


def _request_headers(netloc: str, request: Request, received: Headers) -> Headers:
    own = (b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-request-id")
    headers = [(name, value) for name, value in _end_to_end(received) if name not in own]
    if any(name == b"transfer-encoding" for name, _ in received):  # the body's length is unknown
        # A length beside it is ignored, and must not be passed on (RFC 9112 §6.3): a server that believed it could be
        # smuggled a request.
        headers = [(name, value) for name, value in headers if name != b"content-length"]
        headers.append((b"transfer-encoding", b"chunked"))
    forwarded = [value for name, value in received if name == b"x-forwarded-for"]
    return [
        (b"host", netloc.encode()),
        *headers,
        (b"x-forwarded-for", b", ".join([*forwarded, request.peer.encode()])),
        (b"x-forwarded-proto", b"https"),
        (b"x-request-id", request.request_id.encode()),
        (b"connection", b"close"),
    ]


def _end_to_end(headers: Headers) -> Headers:
    """Return the headers that are not for the next hop only."""
    named = {
        token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")
    }
    return [(name, value) for name, value in headers if name not in HOP_BY_HOP and name not in named]
