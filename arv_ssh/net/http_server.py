"""HTTP/1.1 for the controller and the gateway, on h11: requests in, answers or an upgrade out.

Owns limits and time-outs, and the hand-over of the connection after a 101 with the bytes that came glued to the
request. Knows nothing of what the requests mean.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from urllib.parse import unquote

import h11

from arv_ssh.errors import BadRequest, HttpError, RequestTooLarge
from arv_ssh.log import event
from arv_ssh.net.http_connections import Connections
from arv_ssh.net.http_exchange import MAX_HEAD, RECEIVING, WORKING, ServerExchange, State, Step
from arv_ssh.net.http_messages import (
    Answer,
    Request,
    Response,
    StreamedResponse,
    Upgrade,
    encoded,
    error_response,
    origin_form,
    with_headers,
)
from arv_ssh.net.relay import plain
from arv_ssh.net.request_stream import RequestStream

logger = logging.getLogger(__name__)

MAX_BODY = 64 * 1024
"""Bytes of a request body: forms for sessions and tunnels have a few hundred. Bodies are held before authentication."""
MAX_RECORD_BODY = 8 * 1024 * 1024
"""The same for requests that send records: a container request with thousands of mounts stays far below."""
HEAD_TIMEOUT = 20.0
"""Seconds for a whole request to arrive, TLS handshake included; a silent client holds resources no longer than
that."""
LINGER_TIMEOUT = 5.0
"""Seconds for a client to stop sending a body that was answered before its end; nginx's lingering_timeout."""
WRITE_TIMEOUT = 300.0
"""Seconds for a client to read the bytes sent of an answer."""
IDLE_TIMEOUT = 75.0
"""Seconds that a kept-alive connection may wait for its next request; nginx's own default."""

Handler = Callable[[Request], Awaitable[Answer]]
Condition = Callable[[Request], bool]
"""Decides by a request of which only the head has come."""


def never(request: Request) -> bool:
    """Hold for no request."""
    return False


class HttpConnection(asyncio.Protocol):
    """The server's end of one HTTP/1.1 connection; it is one of ``connections`` while it speaks HTTP.

    ``streams`` says of which requests the handler takes the body as it comes, ``records`` of which it may be long.
    ``asked`` is called with each request that has come.
    """

    def __init__(
        self, handler: Handler, streams: Condition = never, *, records: Condition = never,
        connections: Connections | None = None, asked: Callable[[], object] = lambda: None,
    ) -> None:  # fmt: skip
        self._handler = handler
        self._streams = streams
        self._records = records
        self._max_body = MAX_BODY
        self._stream: RequestStream | None = None
        self._is_streamed = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._connections = connections or Connections()
        self._connections.add(self)
        self._asked = asked
        self._http = ServerExchange()
        self._transport: asyncio.Transport
        self._request: Request
        self._body = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = asyncio.get_running_loop().time() + HEAD_TIMEOUT

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = plain(transport)
        self._timer = asyncio.get_running_loop().call_at(self._deadline, self._timed_out)

    def close_if_idle(self) -> None:
        """Close the connection if an answer was given on it and no byte of another request has come since."""
        if self._http.state is State.IDLE:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._http.state is State.ANSWERING:  # of a streamed request, see _end_request
            self._transport.pause_reading()
        if self._http.state is not State.LINGERING:
            self._http.receive(data)
            self._advance()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def eof_received(self) -> bool:
        if self._http.state is State.LINGERING:
            return False
        if self._http.state is State.ANSWERING and self._is_streamed:
            self._transport.abort()
            return False
        self._http.receive(b"")
        self._advance()
        return self._http.state in WORKING  # an answer may still be on its way to a client that half-closed

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._stop_timer()
        self._http.step(Step.LOSE)
        if self._task is not None:
            self._task.cancel()

    def _advance(self) -> None:
        while self._http.state in RECEIVING:
            try:
                message = self._http.next_event()
                if isinstance(message, h11.Data):
                    self._take(bytes(message.data))
            except h11.RemoteProtocolError as error:
                self._refuse(error)
                return
            if message in (h11.NEED_DATA, h11.PAUSED):
                return
            if isinstance(message, h11.Request):
                self._begin_request(message)
            elif isinstance(message, h11.EndOfMessage):
                self._end_request()
            elif not isinstance(message, h11.Data):  # ConnectionClosed between requests
                self._transport.close()
                return

    def _take(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream.feed(data)
        elif len(self._body) + len(data) > self._max_body:
            raise h11.RemoteProtocolError("the request's body is too large", error_status_hint=413)
        else:
            self._body += data

    def _begin_request(self, head: h11.Request) -> None:
        self._request, self._body = self._read_head(head), bytearray()
        self._max_body = MAX_RECORD_BODY if self._records(self._request) else MAX_BODY
        if self._streams(self._request):
            self._stream = RequestStream(
                pause=self._transport.pause_reading,
                resume=self._transport.resume_reading,
                send_continue=self._send_continue,
            )
            self._http.step(Step.STREAM)
            self._start_handler()

    def _end_request(self) -> None:
        self._http.step(Step.WHOLE)
        stream, self._stream = self._stream, None
        self._is_streamed = stream is not None
        if stream is None:
            # Anything the client sends before it has its answer waits in the kernel, not in our memory.
            self._transport.pause_reading()
            self._start_handler()
        else:
            # Its answer may take hours, and what gives it is to know that the client has left: reading stops with the
            # first bytes of another request, and an end of the client's direction ends both, as with nginx.
            stream.feed_end()

    def _send_continue(self) -> None:
        if self._http.state in WORKING:
            self._transport.write(self._http.go_on())

    def _start_handler(self) -> None:
        self._stop_timer()
        self._asked()
        self._task = asyncio.get_running_loop().create_task(
            self._answer(replace(self._request, body=bytes(self._body), stream=self._stream))
        )

    def _read_head(self, head: h11.Request) -> Request:
        path, _, query = origin_form(head.target.decode("ascii", "replace")).partition("?")
        headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        peer = self._transport.get_extra_info("peername")
        request_id = headers.get("x-request-id", "")
        if not (request_id.isascii() and request_id.replace("-", "").isalnum() and len(request_id) <= 64):
            request_id = "req-" + secrets.token_hex(10)
        return Request(
            method=head.method.decode(),
            path=unquote(path),
            query=query,
            headers=headers,
            body=b"",
            peer=str(peer[0]) if isinstance(peer, tuple) and peer else "",
            request_id=request_id,
            target=head.target,
            raw_headers=list(head.headers),
        )

    async def _answer(self, request: Request) -> None:
        try:
            answer: Answer = await self._handler(request)
        except HttpError as error:
            answer = error_response(error, request.request_id)
        except Exception:
            logger.exception("request failed", extra={"fields": {"request_id": request.request_id}})
            unexpected = HttpError("unexpected server error; the server's log says more")
            answer = error_response(unexpected, request.request_id)
        if self._http.state not in WORKING:
            return  # the connection was lost
        answer = with_headers(answer, request.answer_headers)
        if isinstance(answer, Upgrade):
            self._switch(answer, request.request_id)
        elif isinstance(answer, StreamedResponse):
            await self._send_stream(answer, request.request_id)
        else:
            self._send(answer, request.request_id)
            await self._taken(request.request_id)

    async def _taken(self, request_id: str) -> None:
        """Turn to the next request once the client reads its answers: one that only asks would fill our memory."""
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                await self._writable.wait()
        except TimeoutError:
            event(logger, "an answer was not taken", level=logging.WARNING, request_id=request_id)
            self._transport.abort()
            return
        self._next_request()

    def _switch(self, upgrade: Upgrade, request_id: str) -> None:
        own = [("Connection", "upgrade"), ("Upgrade", upgrade.protocol), ("X-Request-Id", request_id)]
        head, early = self._http.switch(encoded(own + upgrade.headers))
        self._transport.pause_reading()
        self._transport.write(head)
        self._task = None  # from here on connection_lost is the new owner's
        upgrade.start(self._transport, early)
        self._connections.discard(self)  # only now, so that a drain sees the connection's new owner

    async def _send_stream(self, answer: StreamedResponse, request_id: str) -> None:
        headers = [*answer.headers]
        if not any(name.lower() == b"x-request-id" for name, _ in headers):
            headers.append((b"X-Request-Id", request_id.encode()))
        if self._connections.draining:
            headers.append((b"Connection", b"close"))
        try:
            async with aclosing(answer.chunks) as chunks:
                self._transport.write(self._http.begin_answer(answer.status, answer.reason, headers))
                async for chunk in chunks:
                    self._transport.write(self._http.piece(chunk))
                    async with asyncio.timeout(WRITE_TIMEOUT):
                        await self._writable.wait()
            self._transport.write(self._http.end_answer())
        except (HttpError, TimeoutError, h11.LocalProtocolError) as error:
            # The head is already sent: only a cut can show that the body is incomplete.
            event(logger, "an answer was cut", level=logging.WARNING, request_id=request_id, error=str(error))
            self._transport.abort()
            return
        self._next_request()

    def _send(self, response: Response, request_id: str) -> None:
        headers = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("X-Request-Id", request_id),
            *([("Connection", "close")] if self._connections.draining else []),
            *response.headers,
        ]
        self._transport.write(self._http.answer(response.status, headers, response.body))

    def _next_request(self) -> None:
        self._task = None
        if not self._http.next_request():
            self._transport.close()
        elif self._http.state is State.LINGERING:
            self._linger()
        else:
            self._timer = asyncio.get_running_loop().call_later(IDLE_TIMEOUT, self._timed_out)
            self._transport.resume_reading()
            self._advance()

    def _linger(self) -> None:
        """End our direction and drop the rest of the unread body: a reset could overtake the answer."""
        self._stream = None
        self._transport.write_eof()
        self._transport.resume_reading()
        self._timer = asyncio.get_running_loop().call_later(LINGER_TIMEOUT, self._transport.close)

    def _refuse(self, error: h11.RemoteProtocolError) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            self._http.step(Step.WHOLE)
            stream.fail(BadRequest("the request's body is incomplete, or not valid HTTP"))
            return
        refusal: HttpError = BadRequest("this is not an HTTP/1.1 request; this port serves HTTPS")
        if error.error_status_hint in (413, 431):
            limits = f"headers are over {MAX_HEAD} bytes or its body over {self._max_body}"
            refusal = RequestTooLarge(f"the request's {limits}; send less")
        if self._http.can_answer:
            self._send(error_response(refusal, "req-" + secrets.token_hex(10)), "-")
        self._transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _timed_out(self) -> None:
        event(logger, "closing a silent connection", level=logging.DEBUG)
        self._transport.close()
