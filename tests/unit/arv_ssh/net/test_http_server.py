"""The HTTP server over a wire that writes down what is done to it: limits, time-outs, answers, and the upgrade."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from arv_ssh.errors import Forbidden, MethodNotAllowed
from arv_ssh.net import http_server
from arv_ssh.net.http_connections import Connections
from arv_ssh.net.http_exchange import MAX_HEAD
from arv_ssh.net.http_messages import Answer, Request, Response, StreamedResponse, Upgrade
from arv_ssh.net.http_server import Condition, HttpConnection, never
from tests.unit.arv_ssh.streams import Wire

Handler = Callable[[Request], Awaitable[Answer]]
OK = Response(200, b'{"ok": true}\n')


async def ok(request: Request) -> Response:
    return OK


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


def opened(handler: Handler = ok, connections: Connections | None = None, records: Condition = never) -> Wire:
    """Return the wire of a fresh connection."""
    wire = Wire()
    connection = HttpConnection(handler, records=records, connections=connections)
    wire.set_protocol(connection)
    connection.connection_made(wire)
    return wire


async def answered(wire: Wire) -> None:
    """Let the handler's task run to its end."""
    while wire.protocol._task is not None:
        await asyncio.sleep(0)


def answer(wire: Wire) -> tuple[int, dict[str, str], bytes]:
    """Take one answer with a Content-Length off what was written."""
    head, _, rest = bytes(wire.written).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    length = int(headers.get("content-length", 0))
    wire.written[:] = rest[length:]
    return int(lines[0].split()[1]), headers, rest[:length]


def sentence(body: bytes) -> str:
    errors = json.loads(body)["errors"]
    assert len(errors) == 1
    return str(errors[0])


@pytest.mark.parametrize("size", [1, 10, 10_000])
def test_request_in_pieces(size: int) -> None:
    """A request is whole to its handler however it arrives."""
    seen: list[Request] = []

    async def handler(request: Request) -> Response:
        seen.append(request)
        return OK

    async def scenario() -> None:
        wire = opened(handler)
        data = (
            b"POST /a%20b?x=1&y=&x=2 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer v2/a/b\r\nX-Request-Id: req-1\r\n"
            b"Content-Length: 9\r\n\r\ny=3&z=%C3"
        )
        for start in range(0, len(data), size):
            wire.receive(data[start : start + size])
        await answered(wire)
        request = seen[0]
        assert (request.method, request.path, request.query) == ("POST", "/a b", "x=1&y=&x=2")
        assert request.form() == {"x": "2", "y": "3", "z": "\ufffd"}
        assert (request.token(), request.peer, request.request_id) == ("v2/a/b", "192.0.2.7", "req-1")
        status, headers, body = answer(wire)
        assert (status, body) == (200, OK.body)
        assert headers["x-request-id"] == "req-1" and headers["content-type"] == "application/json"
        wire.lose()

    run(scenario())


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "req-1;drop", "é", "-"])
def test_strange_request_id_is_replaced(given: str) -> None:
    """A request id that could spoil a log line or grow it is replaced by one of ours."""

    async def scenario() -> None:
        wire = opened()
        wire.receive(b"GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: " + given.encode("latin-1") + b"\r\n\r\n")
        await answered(wire)
        assert answer(wire)[1]["x-request-id"].startswith("req-")
        wire.lose()

    run(scenario())


@pytest.mark.parametrize("padding", [MAX_HEAD, 4 * MAX_HEAD])
def test_header_over_the_limit(padding: int) -> None:
    """A header block over the limit is 431 with a sentence, and the connection is closed."""

    async def scenario() -> None:
        wire = opened()
        wire.receive(b"GET / HTTP/1.1\r\nHost: h\r\nX-Long: " + b"x" * padding)
        status, _, body = answer(wire)
        assert status == 431 and str(MAX_HEAD) in sentence(body)
        assert wire.is_closing()
        wire.lose()

    run(scenario())


def test_long_header_under_the_limit() -> None:
    """A long header that is within the limit is served."""

    async def scenario() -> None:
        wire = opened()
        padding = b"x" * (MAX_HEAD - 100)
        wire.receive(b"GET / HTTP/1.1\r\nHost: h\r\nX-Long: " + padding + b"\r\n\r\n")
        await answered(wire)
        assert answer(wire)[0] == 200
        wire.lose()

    run(scenario())


@pytest.mark.parametrize("path", [b"/", b"/records"])
@pytest.mark.parametrize("chunked", [False, True])
def test_body_over_the_limit(monkeypatch: pytest.MonkeyPatch, chunked: bool, path: bytes) -> None:
    """A body over its path's limit is refused while it arrives, whether or not its length was announced."""
    monkeypatch.setattr(http_server, "MAX_BODY", 1000 if path == b"/" else 10)
    monkeypatch.setattr(http_server, "MAX_RECORD_BODY", 10 if path == b"/" else 1000)

    async def scenario() -> None:
        wire = opened(records=lambda request: request.path == "/records")
        how = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 1001"
        body = b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n" if chunked else b"x" * 1001
        wire.receive(b"POST " + path + b" HTTP/1.1\r\nHost: h\r\n" + how + b"\r\n\r\n" + body)
        status, _, text = answer(wire)
        assert status == 431 and "body over 1000" in sentence(text) and wire.is_closing()
        wire.lose()

    run(scenario())


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", b"GET /\r\n\r\n", b"\r\n" * 10 + b"what\r\n\r\n"],
)  # fmt: skip
def test_not_http(data: bytes) -> None:
    """What is no HTTP/1.1 request is 400 with a sentence, and the connection is closed."""

    async def scenario() -> None:
        wire = opened()
        wire.receive(data)
        status, _, body = answer(wire)
        assert status == 400 and "not an HTTP/1.1 request" in sentence(body) and wire.is_closing()
        wire.receive(b"more after the close is nobody's")
        assert wire.written == b""
        wire.lose()

    run(scenario())


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab"])
def test_silent_client(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """A client that does not finish its request in time is closed, and nothing is held for it."""
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT", 0.01)

    async def scenario() -> None:
        closed = asyncio.Event()
        wire = opened()
        wire.close = closed.set  # type: ignore[method-assign]
        if sent:
            wire.receive(sent)
        await closed.wait()
        wire.lose()

    run(scenario())


def test_slow_handler_is_not_a_silent_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time-out is for the request; an answer may take longer."""
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT", 0.01)

    async def scenario() -> None:
        elapsed = asyncio.Event()

        async def handler(request: Request) -> Response:
            asyncio.get_running_loop().call_later(0.05, elapsed.set)
            await elapsed.wait()
            return OK

        wire = opened(handler)
        wire.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await answered(wire)
        assert answer(wire)[0] == 200 and not wire.is_closing()
        wire.lose()

    run(scenario())


def test_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept-alive connection without a next request is closed after its time."""
    monkeypatch.setattr(http_server, "IDLE_TIMEOUT", 0.01)

    async def scenario() -> None:
        closed = asyncio.Event()
        wire = opened()
        wire.close = closed.set  # type: ignore[method-assign]
        wire.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await answered(wire)
        assert answer(wire)[0] == 200
        await closed.wait()
        wire.lose()

    run(scenario())


def test_keep_alive_and_pipelining() -> None:
    """Requests sent together are answered one after the other, on one connection, reading paused in between."""
    seen: list[str] = []

    async def scenario() -> None:
        async def handler(request: Request) -> Response:
            assert not wire.reading
            seen.append(request.path)
            return Response(200, request.path.encode())

        wire = opened(handler)
        wire.receive(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(3)))
        while len(seen) < 3:
            await asyncio.sleep(0)
        await answered(wire)
        assert [answer(wire)[2] for _ in range(3)] == [b"/0", b"/1", b"/2"]
        assert wire.reading and not wire.is_closing()
        wire.lose()

    run(scenario())


def test_client_that_asks_and_does_not_read() -> None:
    """Requests that come together are not answered while the answers before them are not taken."""
    seen: list[str] = []

    async def scenario() -> None:
        async def handler(request: Request) -> Response:
            seen.append(request.path)
            wire.protocol.pause_writing()  # as the transport does once much is unsent
            return OK

        wire = opened(handler)
        wire.receive(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(2)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert seen == ["/0"] and answer(wire)[0] == 200 and not wire.reading
        wire.protocol.resume_writing()
        while len(seen) < 2:
            await asyncio.sleep(0)
        wire.lose()

    run(scenario())


def test_answers_that_are_never_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes no answer is cut off."""
    monkeypatch.setattr(http_server, "WRITE_TIMEOUT", 0.0)

    async def scenario() -> None:
        wire = opened()
        wire.protocol.pause_writing()
        wire.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        while not wire.is_closing():
            await asyncio.sleep(0)
        assert wire.log[-1] == "abort"
        wire.lose()

    run(scenario())


@pytest.mark.parametrize(
    "request_text",
    [b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"],
    ids=["close", "1.0"],
)
def test_connection_close(request_text: bytes) -> None:
    """A client that wants the connection closed gets its answer and then that."""

    async def scenario() -> None:
        wire = opened()
        wire.receive(request_text)
        await answered(wire)
        assert answer(wire)[0] == 200 and wire.is_closing()
        wire.lose()

    run(scenario())


def test_head() -> None:
    """HEAD has the length of the body and no body, and the connection goes on."""

    async def scenario() -> None:
        wire = opened()
        wire.receive(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        await answered(wire)
        head = bytes(wire.written)
        assert b"Content-Length: %d\r\n" % len(OK.body) in head and head.endswith(b"\r\n\r\n")
        wire.written.clear()
        wire.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await answered(wire)
        assert answer(wire)[2] == OK.body
        wire.lose()

    run(scenario())


def test_error_shape() -> None:
    """An error is its status, one sentence in a list, and the request's id."""

    async def handler(request: Request) -> Response:
        raise Forbidden("not for you")

    async def scenario() -> None:
        wire = opened(handler)
        wire.receive(b"GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: req-7\r\n\r\n")
        await answered(wire)
        status, _, body = answer(wire)
        assert status == 403 and json.loads(body) == {"errors": ["not for you"], "request_id": "req-7"}
        assert not wire.is_closing()
        wire.lose()

    run(scenario())


def test_unexpected_error(caplog: pytest.LogCaptureFixture) -> None:
    """A bug is 500 with a sentence that gives nothing away, and is in the log with the request's id."""

    async def handler(request: Request) -> Response:
        raise KeyError("internal detail")

    async def scenario() -> None:
        wire = opened(handler)
        wire.receive(b"GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: req-8\r\n\r\n")
        await answered(wire)
        status, _, body = answer(wire)
        assert status == 500 and "internal detail" not in sentence(body)
        wire.lose()

    run(scenario())
    record = caplog.records[-1]
    assert record.exc_info and record.__dict__["fields"] == {"request_id": "req-8"}


def test_client_that_half_closes_gets_its_answer() -> None:
    """EOF after a request does not take its answer away; the connection is closed after that."""

    async def scenario() -> None:
        proceed = asyncio.Event()

        async def handler(request: Request) -> Response:
            await proceed.wait()
            return OK

        wire = opened(handler)
        wire.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert wire.receive_eof(), "the transport must stay open for the answer"
        proceed.set()
        await answered(wire)
        assert answer(wire)[0] == 200 and wire.is_closing()
        wire.lose()

    run(scenario())


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHo"])
def test_client_that_leaves_early(sent: bytes) -> None:
    """EOF before a whole request closes the connection without a trace."""

    async def scenario() -> None:
        wire = opened()
        if sent:
            wire.receive(sent)
        wire.receive_eof()
        assert wire.is_closing()
        wire.lose()

    run(scenario())


def test_client_gone_before_the_answer() -> None:
    """A handler whose client is gone is cancelled."""

    async def scenario() -> None:
        cancelled = asyncio.Event()

        async def handler(request: Request) -> Response:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return OK

        wire = opened(handler)
        wire.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.sleep(0)
        wire.lose(ConnectionResetError())
        await cancelled.wait()
        assert wire.written == b""

    run(scenario())


@pytest.mark.parametrize("connection", [b"", b"Connection: upgrade\r\n"], ids=["without Connection", "with"])
@pytest.mark.parametrize("glued", [True, False])
def test_upgrade(connection: bytes, glued: bool) -> None:
    """An upgrade is a 101, with or without the client's ``Connection: upgrade`` (real clients send none), and hands
    over the paused transport with the bytes that followed the request."""
    started: list[tuple[Any, bytes]] = []

    async def handler(request: Request) -> Upgrade:
        assert request.form() == {"detach_keys": ""}
        return Upgrade("ssh", [("X-Own", "1")], lambda transport, early: started.append((transport, early)))

    async def scenario() -> None:
        wire = opened(handler)
        early = b"SSH-2.0-client\r\n\x00\xff" if glued else b""
        wire.receive(
            b"POST /ssh HTTP/1.1\r\nHost: h\r\n" + connection + b"Upgrade: ssh\r\nX-Request-Id: req-9\r\n"
            b"Content-Length: 12\r\n\r\ndetach_keys=" + early
        )
        while not started:
            await asyncio.sleep(0)
        head = bytes(wire.written).decode().split("\r\n")
        assert head[0] == "HTTP/1.1 101 Switching Protocols"
        assert {"Connection: upgrade", "Upgrade: ssh", "X-Request-Id: req-9", "X-Own: 1"} <= set(head)
        assert started == [(wire, early)]
        assert not wire.reading
        wire.lose()

    run(scenario())


def test_refused_upgrade_keeps_the_connection() -> None:
    """A refused upgrade is an ordinary answer, and the connection can be used again."""

    async def handler(request: Request) -> Response:
        if request.method == "POST":
            raise Forbidden("no")
        return OK

    async def scenario() -> None:
        wire = opened(handler)
        wire.receive(b"POST /ssh HTTP/1.1\r\nHost: h\r\nUpgrade: ssh\r\nContent-Length: 0\r\n\r\n")
        await answered(wire)
        assert answer(wire)[0] == 403
        wire.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await answered(wire)
        assert answer(wire)[0] == 200
        wire.lose()

    run(scenario())


def test_time_out_does_not_touch_an_upgraded_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the upgrade no time-out of HTTP is left to end the session."""
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT", 0.01)
    monkeypatch.setattr(http_server, "IDLE_TIMEOUT", 0.01)

    async def scenario() -> None:
        later = asyncio.Event()

        async def handler(request: Request) -> Upgrade:
            start = asyncio.get_running_loop().call_later
            return Upgrade("ssh", [], lambda transport, early: (start(0.05, later.set), None)[1])

        wire = opened(handler)
        wire.receive(b"POST /ssh HTTP/1.1\r\nHost: h\r\nUpgrade: ssh\r\nContent-Length: 0\r\n\r\n")
        await later.wait()
        assert not wire.is_closing()

    run(scenario())


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("https://zzzzz.example.org:443/arvados/v1/x?a=b", "/arvados/v1/x", "a=b"),
        ("HTTP://10.0.0.7:34567/ssh", "/ssh", ""),
        ("http://host?a=http://other/", "/", "a=http://other/"),
        ("http://host", "/", ""),
        ("/path?u=http://host/", "/path", "u=http://host/"),
        ("/http://host/path", "/http://host/path", ""),
    ],
)
def test_whole_url_as_target(target: str, path: str, query: str) -> None:
    """A request for a whole URL, as stock Arvados sends it, is for that URL's path and query."""
    seen: list[tuple[str, str]] = []

    async def handler(request: Request) -> Response:
        seen.append((request.path, request.query))
        return OK

    async def scenario() -> None:
        wire = opened(handler)
        wire.receive(f"GET {target} HTTP/1.1\r\nHost: host\r\n\r\n".encode())
        await answered(wire)

    run(scenario())
    assert seen == [(path, query)]


class TestDraining:
    """A server that is about to end."""

    def test_connections(self) -> None:
        """Those between requests are closed; a new one, a request half come and one under way have their answers."""

        async def scenario() -> None:
            connections, answering = Connections(), asyncio.Event()

            async def wait(request: Request) -> Response:
                await answering.wait()
                return OK

            idle, fresh, half, under_way = (
                opened(handler, connections) for handler in (ok, ok, ok, wait)
            )
            for wire in (idle, half):
                wire.protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await answered(wire)
                assert "connection" not in answer(wire)[1]
            half.protocol.data_received(b"GET / HT")
            under_way.protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            connections.drain()
            assert [wire.is_closing() for wire in (idle, fresh, half, under_way)] == [True, False, False, False]
            ended = asyncio.create_task(connections.ended())
            answering.set()
            fresh.protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            half.protocol.data_received(b"TP/1.1\r\nHost: x\r\n\r\n")
            for wire in (fresh, half, under_way):
                await answered(wire)
                status, headers, _ = answer(wire)
                assert (status, headers["connection"]) == (200, "close") and wire.is_closing()
                assert not ended.done()
                wire.protocol.connection_lost(None)
            assert not ended.done()
            idle.protocol.connection_lost(None)
            await ended

        run(scenario())

    def test_upgraded(self) -> None:
        """An upgraded connection is none of the server's any more, once its new owner has it."""

        async def scenario() -> None:
            connections, seen = Connections(), []

            async def upgrade(request: Request) -> Upgrade:
                return Upgrade("ssh", [], lambda transport, early: seen.append(early))

            wire = opened(upgrade, connections)
            wire.protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: ssh\r\n\r\n")
            connections.drain()
            await connections.ended()
            assert seen == [b""] and not wire.is_closing()

        run(scenario())


def test_silent_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose TLS never stands has no time-out of its own here: the layer below closes it."""
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT", 0.01)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        errors: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: errors.append(context))
        connection, passed = HttpConnection(ok), asyncio.Event()
        loop.call_later(0.05, passed.set)
        await passed.wait()
        assert errors == []
        closed, wire = asyncio.Event(), Wire()
        wire.close = closed.set  # type: ignore[method-assign]
        connection.connection_made(wire)  # at the last moment
        await closed.wait()
        HttpConnection(ok).connection_lost(None)

    run(scenario())


def test_each_request_is_told() -> None:
    """Whoever counts connections without a request hears of one that is whole, before its handler works."""
    asked: list[str] = []

    async def scenario() -> None:
        wire = Wire()
        connection = HttpConnection(ok, asked=lambda: asked.append("asked"))
        wire.set_protocol(connection)
        connection.connection_made(wire)
        wire.receive(b"GET / HTTP/1.1\r\nHost: h\r\n")
        assert asked == []
        wire.receive(b"\r\n")
        assert asked == ["asked"]
        await answered(wire)
        wire.lose()

    run(scenario())


async def streamed() -> AsyncGenerator[bytes, None]:
    yield b"one"


ANSWERS: dict[str, Answer | Exception] = {
    "whole": Response(200, b"", headers=[("X-Own", "inner"), ("x-proof", "forged")]),
    "streamed": StreamedResponse(207, b"Multi-Status", [(b"X-Own", b"inner"), (b"X-PROOF", b"forged")], streamed()),
    "switched": Upgrade("websocket", [("X-Own", "inner"), ("X-Proof", "forged")], lambda transport, early: None),
    "refused": MethodNotAllowed("no"),
    "failed": RuntimeError("no"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_headers_of_every_answer(kind: str) -> None:
    """What a handler asks every answer to carry is last in each, errors too, in place of any other of that name."""

    async def handler(request: Request) -> Answer:
        request.answer_headers["X-Proof"] = "ours"
        answer = ANSWERS[kind]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def scenario() -> None:
        wire = opened(handler)
        wire.receive(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await answered(wire)
        head = bytes(wire.written).partition(b"\r\n\r\n")[0].lower()
        assert head.count(b"x-proof: ours") == 1 and b"forged" not in head
        assert kind in ("refused", "failed") or b"x-own: inner" in head
        assert kind != "switched" or b"upgrade: websocket" in head
        wire.lose()

    run(scenario())


def test_headers_of_one_error() -> None:
    """An error may have headers of its own."""

    async def handler(request: Request) -> Answer:
        error = MethodNotAllowed("no")
        error.headers = [("Allow", "GET")]
        raise error

    async def scenario() -> None:
        wire = opened(handler)
        wire.receive(b"PROPFIND / HTTP/1.1\r\nHost: h\r\n\r\n")
        await answered(wire)
        status, headers, _ = answer(wire)
        assert (status, headers["allow"]) == (405, "GET")
        wire.lose()

    run(scenario())


@pytest.mark.parametrize("method", [b"PROPFIND", b"OPTIONS", b"M-SEARCH"])
def test_streams_are_decided_by_the_head(method: bytes) -> None:
    """Method, path and headers decide whether a body is streamed; a handler reads either kind in pieces."""
    seen: list[tuple[Request, bytes]] = []

    async def handler(request: Request) -> Answer:
        seen.append((request, b"".join([piece async for piece in request.pieces()])))
        return OK

    def streams(request: Request) -> bool:
        return (request.method, request.path, request.headers.get("x-kind")) == (method.decode(), "/a b", "raw")

    async def scenario() -> None:
        for kind in (b"raw", b"other"):
            wire = Wire()
            connection = HttpConnection(handler, streams)
            wire.set_protocol(connection)
            connection.connection_made(wire)
            wire.receive(
                method + b" /a%20b?x HTTP/1.1\r\nHost: h\r\nX-Kind: " + kind
                + b"\r\nCookie: a\r\nX: 1\r\nCookie: b\r\nContent-Length: 4\r\n\r\nbo"
            )  # fmt: skip
            for _ in range(5):
                await asyncio.sleep(0)
            wire.receive(b"dy")
            await answered(wire)
            assert answer(wire)[0] == 200
            wire.lose()

    run(scenario())
    assert [(request.stream is not None, body) for request, body in seen] == [(True, b"body"), (False, b"body")]
    assert seen[0][0].target == b"/a%20b?x"
    assert seen[0][0].raw_headers[2:5] == [(b"cookie", b"a"), (b"x", b"1"), (b"cookie", b"b")]
