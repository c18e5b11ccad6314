"""Requests passed on to an API host and answers back, over sockets on both sides of an HTTP server of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import h11
import pytest

from arv_ssh.controller.reverse_proxy import PassThrough
from arv_ssh.net.http_server import HttpConnection
from tests.timing import DEADLINE, SECOND

Upstream = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, DEADLINE))


class Client:
    """A client of the proxy that reads answers with h11."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
        http.send(h11.EndOfMessage())
        status, headers, body = 0, {}, bytearray()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await self.reader.read(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, headers, bytes(body)


@asynccontextmanager
async def proxy(upstream: Upstream) -> AsyncIterator[Client]:
    """Give a client of a proxy whose API host behaves as ``upstream``."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await upstream(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    behind = await asyncio.start_server(serve, "127.0.0.1", 0)
    passing = PassThrough(f"http://127.0.0.1:{behind.sockets[0].getsockname()[1]}/base/", verify=True)
    loop = asyncio.get_running_loop()
    front = await loop.create_server(lambda: HttpConnection(passing.handle, lambda path: True), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*front.sockets[0].getsockname())
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        front.close()
        behind.close()


def test_heads() -> None:
    """What is for the next hop only stays behind, repeated headers stay, and the API host learns who asked."""
    seen: list[bytes] = []

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 207 Multi Status\r\nContent-Length: 2\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"
            b"Keep-Alive: timeout=5\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Request-Id: req-theirs\r\n\r\nok"
        )

    async def scenario() -> None:
        async with proxy(upstream) as client:
            client.writer.write(
                b"GET /a%20b/c?x=%2F HTTP/1.1\r\nHost: outside\r\nAuthorization: Bearer v2/a/b\r\n"
                b"X-Forwarded-For: 1.2.3.4\r\nConnection: keep-alive, x-mine\r\nX-Mine: 1\r\nTE: trailers\r\n"
                b"Upgrade: h2c\r\nAccept: a\r\nAccept: b\r\nX-Request-Id: req-1\r\n\r\n"
            )
            status, headers, body = await client.answer()
            assert (status, body, headers["x-request-id"]) == (207, b"ok", "req-theirs")
            assert not {"x-hop", "keep-alive", "connection"} & headers.keys()

    run(scenario())
    lines = seen[0].decode().split("\r\n")
    assert lines[0] == "GET /base/a%20b/c?x=%2F HTTP/1.1"
    headers = [line.lower() for line in lines[1:] if line]
    assert {"accept: a", "accept: b", "authorization: bearer v2/a/b", "x-request-id: req-1"} <= set(headers)
    assert {"x-forwarded-for: 1.2.3.4, 127.0.0.1", "x-forwarded-proto: https", "connection: close"} <= set(headers)
    assert not [line for line in headers if line.startswith(("x-mine", "te:", "upgrade", "keep-alive"))]
    assert len([line for line in headers if line.startswith("host:")]) == 1 and "host: outside" not in headers


def test_a_length_beside_chunks_stays_behind() -> None:
    """Of two framings of one body the API host sees one, so that it cannot take its end for another request."""
    seen: list[bytes] = []

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(OK)

    async def scenario() -> None:
        async with proxy(upstream) as client:
            client.writer.write(
                b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"5\r\nwhole\r\n0\r\n\r\n"
            )
            assert (await client.answer())[0] == 200

    run(scenario())
    head, _, body = seen[0].lower().partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head and b"content-length" not in head
    assert body == b"5\r\nwhole\r\n0\r\n\r\n"


@pytest.mark.parametrize("target", ["ftp://elsewhere/x", "elsewhere:443", "*"])
def test_a_target_that_is_no_path(target: str) -> None:
    """What names another host is not passed on."""

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)

    async def scenario() -> None:
        async with proxy(upstream) as client:
            client.writer.write(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            status, _, body = await client.answer()
            assert status == 400 and b"neither a path nor" in body

    run(scenario())


@pytest.mark.parametrize("chunked", [True, False])
def test_both_bodies_are_under_way_at_once(chunked: bool) -> None:
    """Neither body is kept until it is whole: each piece is answered before the next one is sent."""

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert (b"transfer-encoding: chunked" in head.lower()) == chunked
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            wanted = b"piece%d" % number
            await reader.readuntil(wanted)
            writer.write(b"6\r\n" + wanted.replace(b"piece", b"reply") + b"\r\n")
        writer.write(b"0\r\n\r\n")

    async def scenario() -> None:
        async with proxy(upstream) as client:
            framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 18"
            client.writer.write(b"POST /x HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n")
            head = await client.reader.readuntil(b"\r\n\r\n") if not chunked else b""
            for number in range(3):
                piece = b"piece%d" % number
                client.writer.write(b"6\r\n" + piece + b"\r\n" if chunked else piece)
                if chunked and not head:
                    head = await client.reader.readuntil(b"\r\n\r\n")
                await client.reader.readuntil(b"reply%d" % number)
            if chunked:
                client.writer.write(b"0\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            await client.reader.readuntil(b"0\r\n\r\n")

    run(scenario())


def test_big_bodies() -> None:
    """Bodies larger than anything that is kept go both ways whole, and the connection serves the next request."""
    size = 40 * 1024 * 1024

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            writer.write(OK)
            return
        received = 0
        while received < size:
            received += len(await reader.read(1 << 20))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // (1 << 20)):
            writer.write(bytes(1 << 20))
            await writer.drain()

    async def scenario() -> None:
        async with proxy(upstream) as client:
            client.writer.write(b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // (1 << 20)):
                client.writer.write(bytes(1 << 20))
                await client.writer.drain()
            status, _, body = await client.answer("PUT")
            assert (status, len(body)) == (200, size)
            client.writer.write(b"GET /y HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await client.answer())[2] == b"ok"

    run(scenario())


def test_slow_client_makes_the_api_host_wait() -> None:
    """What a client does not take is not read from the API host either."""
    sent, stuck = 0, asyncio.Event()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while sent < 1 << 30:
                writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                async with asyncio.timeout(SECOND):
                    await writer.drain()
                sent += 0x10000
        except TimeoutError:
            stuck.set()

    async def scenario() -> None:
        async with proxy(upstream) as client:
            client.writer.write(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
            await client.reader.readuntil(b"\r\n\r\n")
            await stuck.wait()
            assert 0 < sent < 64 << 20

    run(scenario())


def test_expect_100_continue() -> None:
    """A client that waits is told to go on when the API host says so, and its body goes through."""

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"expect: 100-continue" in (await reader.readuntil(b"\r\n\r\n")).lower()
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(4) == b"body"
        writer.write(OK)

    async def scenario() -> None:
        async with proxy(upstream) as client:
            client.writer.write(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            client.writer.write(b"body")
            assert (await client.answer("POST"))[0] == 200

    run(scenario())


def test_answer_before_the_body() -> None:
    """An API host that refuses a body it has not read is heard, and the rest of the body does no harm."""

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        while await reader.read(1 << 20):  # as nginx does, so that a reset does not overtake the answer
            pass

    async def scenario() -> None:
        async with proxy(upstream) as client:
            client.writer.write(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n" + bytes(1 << 20))
            status, _, body = await client.answer("POST")
            assert (status, body) == (413, b"big")
            assert await client.reader.read() == b""

    run(scenario())


def test_head_request() -> None:
    """The answer to HEAD has the length of a body that does not come."""

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HEAD ")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")

    async def scenario() -> None:
        async with proxy(upstream) as client:
            client.writer.write(b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n")
            status, headers, body = await client.answer("HEAD")
            assert (status, headers["content-length"], body) == (200, "1000", b"")

    run(scenario())


@pytest.mark.parametrize(
    ("sent", "status", "sentence"),
    [
        (b"", 502, "closed the connection before it answered"),
        (b"SSH-2.0-x\r\n", 502, "does not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", 502, "closed the connection before it answered"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", 502, "answered in invalid HTTP"),
    ],
)
def test_api_host_that_fails(sent: bytes, status: int, sentence: str) -> None:
    """An API host that answers nonsense, or nothing, is a 502 with a sentence in Arvados' shape."""

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)

    async def scenario() -> None:
        async with proxy(upstream) as client:
            client.writer.write(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
            found, _, body = await client.answer()
            assert found == status and b'"errors"' in body
            assert sentence.encode() in body

    run(scenario())


def test_cut_answer() -> None:
    """An answer that breaks off at the API host breaks off at the client: it is never taken for a whole one."""

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")

    async def scenario() -> None:
        async with proxy(upstream) as client:
            client.writer.write(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
            with pytest.raises((h11.RemoteProtocolError, ConnectionResetError)):
                await client.answer()

    run(scenario())


def test_api_host_that_is_away() -> None:
    """A refused connection is a 503 that names the API host."""

    async def scenario() -> None:
        passing = PassThrough("http://127.0.0.1:1", verify=True)
        loop = asyncio.get_running_loop()
        front = await loop.create_server(lambda: HttpConnection(passing.handle, lambda path: True), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*front.sockets[0].getsockname())
        writer.write(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        status, _, body = await Client(reader, writer).answer()
        assert status == 503 and b"the API host 127.0.0.1:1 cannot be reached" in body
        writer.close()
        front.close()

    run(scenario())


def test_client_that_breaks_off() -> None:
    """A client whose body ends too early takes its exchange with the API host with it."""
    ended = asyncio.Event()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            await reader.read()
        finally:
            ended.set()

    async def scenario() -> None:
        async with proxy(upstream) as client:
            client.writer.write(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nsome")
            client.writer.write_eof()
            status, _, body = await client.answer("POST")
            assert status == 400 and b"is incomplete, or not valid HTTP" in body
            await ended.wait()

    run(scenario())
