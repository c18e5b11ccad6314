"""Passing requests on to the API host, and its answers back, as they come (``PassThrough: true``).

Owns one exchange with the API host: what of the heads is for the next hop only (RFC 9110 §7.6.1), both bodies without
keeping either, and what a client reads when the API host fails. Knows nothing of what the requests mean. Each exchange
has a connection of its own.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from arv_ssh.errors import BadGateway, BadRequest, GatewayTimeout, HttpError, Unavailable
from arv_ssh.net import tls
from arv_ssh.net.http_server import Request, StreamedResponse, origin_form
from arv_ssh.net.request_stream import RequestStream

CONNECT_TIMEOUT = 10.0
"""Seconds for TCP and TLS to the API host, which is in the cluster's own network."""
STALL_TIMEOUT = 300.0
"""Seconds without a byte in which an exchange may still live: the RequestTimeout of stock Arvados."""
READ_SIZE = 256 * 1024
MAX_HEAD = 64 * 1024
HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
})  # fmt: skip
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class ApiHost:
    """Where to pass requests on to; ``context`` is None for plain HTTP. ``prefix`` goes before each path."""

    host: str
    port: int
    netloc: str
    prefix: str
    context: ssl.SSLContext | None


class PassThrough:
    """Passes requests on to the API at ``url``. ``verify`` is as :class:`arv_ssh.api.client.ApiClient` has it."""

    def __init__(self, url: str, verify: bool | str) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        ca_file = verify if isinstance(verify, str) else None
        self._api = ApiHost(
            host=parts.hostname or "",
            port=parts.port or (443 if secure else 80),
            netloc=parts.netloc,
            prefix=parts.path.rstrip("/"),
            context=tls.client_context(insecure=not verify, ca_file=ca_file) if secure else None,
        )

    async def handle(self, request: Request) -> StreamedResponse:
        """Pass one request on; return the head of the answer and the way to its body."""
        assert request.stream is not None  # noqa: S101 - the connection streams what it was told to stream
        reader, writer = await self._connect()
        exchange = _Exchange(self._api, request, request.stream, reader, writer)
        try:
            return await exchange.begin()
        except BaseException:
            exchange.abort()
            raise

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        api = self._api
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return await asyncio.open_connection(api.host, api.port, ssl=api.context, limit=READ_SIZE)
        except TimeoutError as error:
            raise GatewayTimeout(f"the API host {api.netloc} did not answer in time; try again") from error
        except ssl.SSLError as error:
            raise BadGateway(f"the API host {api.netloc} cannot be trusted ({error.reason})") from error
        except OSError as error:
            raise Unavailable(f"the API host {api.netloc} cannot be reached ({error.strerror or error})") from error


class _Exchange:
    """One request and its answer on a fresh connection to the API host."""

    def __init__(
        self,
        api: ApiHost,
        request: Request,
        body: RequestStream,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._api = api
        self._request = request
        self._body = body
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._upload: asyncio.Task[None] | None = None

    async def begin(self) -> StreamedResponse:
        """Send the head, start on the body, and return the answer's head when it comes."""
        path = origin_form(self._body.target.decode("latin-1"))
        if not path.startswith("/"):  # another scheme's URL, of which the API host would take the host
            raise BadRequest("the request's target is neither a path nor an http or https URL")
        target = self._api.prefix + path
        head = h11.Request(method=self._request.method, target=target, headers=self._request_headers())
        self._writer.write(self._http.send(head) or b"")
        self._upload = asyncio.get_running_loop().create_task(self._send_body())
        self._upload.add_done_callback(_note_failure)
        while True:
            event = await self._next_event()
            if isinstance(event, h11.InformationalResponse):
                if event.status_code == 100:
                    self._body.send_continue()
            elif isinstance(event, h11.Response):
                headers = _end_to_end(list(event.headers))
                return StreamedResponse(event.status_code, bytes(event.reason), headers, self._chunks())
            else:
                raise BadGateway(f"the API host {self._api.netloc} closed the connection before it answered")

    def _request_headers(self) -> Headers:
        received = self._body.headers
        own = (b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-request-id")
        headers = [(name, value) for name, value in _end_to_end(received) if name not in own]
        if any(name == b"transfer-encoding" for name, _ in received):  # the body's length is not known beforehand
            # A length beside it counts for nothing, and must not go on (RFC 9112 §6.3): who believes it is smuggled to.
            headers = [(name, value) for name, value in headers if name != b"content-length"]
            headers.append((b"transfer-encoding", b"chunked"))
        forwarded = [value for name, value in received if name == b"x-forwarded-for"]
        return [
            (b"host", self._api.netloc.encode()),
            *headers,
            (b"x-forwarded-for", b", ".join([*forwarded, self._request.peer.encode()])),
            (b"x-forwarded-proto", b"https"),
            (b"x-request-id", self._request.request_id.encode()),
            (b"connection", b"close"),
        ]

    async def _send_body(self) -> None:
        while True:
            async with asyncio.timeout(STALL_TIMEOUT):
                data = await self._body.read()
            if not data:
                break
            self._writer.write(self._http.send(h11.Data(data=data)) or b"")
            await self._writer.drain()
        self._writer.write(self._http.send(h11.EndOfMessage()) or b"")

    async def _next_event(self) -> object:
        api = self._api.netloc
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(await self._read())
            return event
        except TimeoutError as error:
            raise GatewayTimeout(f"the API host {api} has sent nothing for {STALL_TIMEOUT:g} s") from error
        except h11.RemoteProtocolError as error:
            raise BadGateway(f"the API host {api} answered with invalid HTTP ({error})") from error
        except OSError as error:
            raise BadGateway(f"the API host {api} closed the connection ({error.strerror or error})") from error

    async def _read(self) -> bytes:
        """Wait for bytes of the answer, but not longer than the request can become whole."""
        assert self._upload is not None  # noqa: S101 - begin() made it
        reading = asyncio.ensure_future(self._reader.read(READ_SIZE))
        try:
            async with asyncio.timeout(STALL_TIMEOUT):
                if not self._upload.done():
                    await asyncio.wait({reading, self._upload}, return_when=asyncio.FIRST_COMPLETED)
                self._check_upload()
                return await reading
        finally:
            reading.cancel()

    def _check_upload(self) -> None:
        """Raise when the client failed; that the API host takes no more of the body is for its answer to explain."""
        assert self._upload is not None  # noqa: S101
        if not self._upload.done() or self._upload.cancelled():
            return
        error = self._upload.exception()
        if isinstance(error, HttpError):
            raise error
        if isinstance(error, TimeoutError):
            raise BadRequest(f"the request's body has stalled for {STALL_TIMEOUT:g} s") from error

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            while isinstance(event := await self._next_event(), h11.Data):
                yield bytes(event.data)
        finally:
            self.abort()

    def abort(self) -> None:
        """Let go of the connection, whatever is on its way."""
        if self._upload is not None:
            self._upload.cancel()
        self._writer.transport.abort()


def _note_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # read, so that one which no answer waited for is not reported


def _end_to_end(headers: Headers) -> Headers:
    """Return the headers that are not for the next hop only."""
    named = {
        token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")
    }
    return [(name, value) for name, value in headers if name not in HOP_BY_HOP and name not in named]
