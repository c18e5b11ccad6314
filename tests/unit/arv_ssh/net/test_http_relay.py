"""Requests passed on over sockets: WebSockets, the check of the answer, and the end. tests/unit/arv_ssh/controller/
test_reverse_proxy.py has what both bodies and the other headers go through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from arv_ssh.errors import BadGateway
from arv_ssh.net.http_client import Address, Head, connect
from arv_ssh.net.http_messages import Answer, Request
from arv_ssh.net.http_relay import Headers, pass_on, protocol_of, request_headers
from arv_ssh.net.http_server import HttpConnection
from arv_ssh.net.relay import Relay
from tests.timing import DEADLINE, SECOND

Upstream = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
WEBSOCKET = b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nX-Drop: 1\r\n\r\n"


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, DEADLINE))


class Passing:
    """A handler that passes requests on to a port; notes relays and ends."""

    def __init__(self, port: int, check: Callable[[Head], Headers]) -> None:
        self._port = port
        self._check = check
        self.relays: list[Relay] = []
        self.ends = asyncio.Queue[str]()

    async def handle(self, request: Request) -> Answer:
        protocol = protocol_of(request)
        connection = await connect(Address("the port", "127.0.0.1", self._port), protocol)
        return await pass_on(
            connection, request, request.target.decode(), request_headers(request, (b"x-drop",), protocol),
            stall=SECOND, check=self._check, joined=self.relays.append, done=lambda: self.ends.put_nowait("done"),
        )  # fmt: skip


@asynccontextmanager
async def relayed(
    upstream: Upstream, check: Callable[[Head], Headers] = lambda head: head.headers
) -> AsyncIterator[tuple[Passing, asyncio.StreamReader, asyncio.StreamWriter]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream(reader, writer)
        writer.close()

    behind = await asyncio.start_server(serve, "127.0.0.1", 0)
    passing = Passing(behind.sockets[0].getsockname()[1], check)
    loop = asyncio.get_running_loop()
    front = await loop.create_server(lambda: HttpConnection(passing.handle, lambda request: True), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*front.sockets[0].getsockname())
    try:
        yield passing, reader, writer
    finally:
        writer.close()
        front.close()
        behind.close()


def test_websocket() -> None:
    """Both heads go through, then bytes both ways, those glued to the heads first; half-close ends one direction."""
    seen: list[bytes] = []

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: \xe9\r\n\r\nhi"
        )
        seen.append(await reader.read())
        writer.write(b"bye")

    async def scenario() -> None:
        async with relayed(upstream) as (passing, reader, writer):
            writer.write(WEBSOCKET + b"early")
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 101 ") and b"\r\nsec-websocket-accept: \xe9\r\n" in head
            assert head.count(b"upgrade: websocket") == 1
            assert await reader.readexactly(2) == b"hi" and len(passing.relays) == 1
            writer.write(b" late")
            writer.write_eof()
            assert await reader.read() == b"bye"
            assert await passing.ends.get() == "done"

    run(scenario())
    head, data = seen
    assert data == b"early late" and b"x-drop" not in head.lower()
    assert b"connection: Upgrade\r\nupgrade: websocket\r\n" in head


@pytest.mark.parametrize(("line", "instead"), [
    *((b"WebSocket", other) for other in (b"h2c", b"websocket, h2c", b"ssh")),
    *((b"X-Drop: 1", body) for body in (b"Content-Length: 5", b"Transfer-Encoding: chunked")),
])  # fmt: skip
def test_no_plain_websocket(line: bytes, instead: bytes) -> None:
    """Another protocol, or a body (its rest would be the WebSocket's first bytes), makes it an ordinary request."""

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"upgrade" not in head.lower()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def scenario() -> None:
        async with relayed(upstream) as (passing, reader, writer):
            writer.write(WEBSOCKET.replace(line, instead))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            assert await passing.ends.get() == "done"

    run(scenario())


@pytest.mark.parametrize("named", [b"host", b"Content-Length, X-Own", b"host,content-length"])
def test_what_a_connection_header_cannot_name(named: bytes) -> None:
    """A request keeps its host and the length of its body, and loses what else is for one hop."""
    seen: list[bytes] = []

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"body"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def scenario() -> None:
        async with relayed(upstream) as (_, reader, writer):
            own = b"X-Own: 1\r\n" if b"X-Own" in named else b""
            head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nConnection: " + named + b"\r\n" + own
            writer.write(head + b"\r\nbody")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")

    run(scenario())
    assert b"host: h" in seen[0].lower() and b"content-length: 4" in seen[0].lower() and b"x-own" not in seen[0].lower()


def test_an_older_client() -> None:
    """HTTP/1.0 needs no Host header; the request that is passed on has an empty one."""

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET / HTTP/1.1\r\nhost: \r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def scenario() -> None:
        async with relayed(upstream) as (_, reader, writer):
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            assert (await reader.read()).endswith(b"\r\n\r\nok")

    run(scenario())


def test_a_refused_websocket() -> None:
    """An answer other than the switch is passed on whole, and the next request can be asked."""

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")

    async def scenario() -> None:
        async with relayed(upstream) as (passing, reader, writer):
            for _ in range(2):
                writer.write(WEBSOCKET)
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 403 No\r\n")
                assert await reader.readexactly(2) == b"no" and await passing.ends.get() == "done"
            assert not passing.relays

    run(scenario())


def test_the_length_beside_chunks_in_an_answer() -> None:
    """Of two framings of an answer the client sees one."""

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n"
        )

    async def scenario() -> None:
        async with relayed(upstream) as (_, reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert b"content-length" not in (await reader.readuntil(b"\r\n\r\n")).lower()
            assert await reader.readuntil(b"0\r\n\r\n") == b"5\r\nwhole\r\n0\r\n\r\n"

    run(scenario())


@pytest.mark.parametrize("answer", [b"200 OK", b"101 Switching\r\nUpgrade: websocket"])
def test_an_answer_that_fails_the_check(answer: bytes) -> None:
    """What the check refuses is never passed on, a 101 neither, and the connection is closed."""

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + answer + b"\r\nX-Secret: 1\r\n\r\nsecret")
        assert await reader.read() == b""

    def check(head: Head) -> Headers:
        raise BadGateway("not the one")

    async def scenario() -> None:
        async with relayed(upstream, check) as (passing, reader, writer):
            writer.write(WEBSOCKET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            got = (await reader.read()).lower()
            assert got.startswith(b"http/1.1 502 ") and b"not the one" in got and b"secret" not in got
            assert await passing.ends.get() == "done"

    run(scenario())


def test_headers_that_the_check_changes() -> None:
    """The check decides which of the answer's headers go on."""

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nX-Proof: 1\r\nX-Other: 2\r\nContent-Length: 0\r\n\r\n")

    def check(head: Head) -> Headers:
        return [pair for pair in head.headers if pair[0] != b"x-proof"]

    async def scenario() -> None:
        async with relayed(upstream, check) as (_, reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert b"x-other: 2" in head and b"x-proof" not in head

    run(scenario())


def test_client_that_leaves() -> None:
    """A client that goes away while the answer comes ends the other connection too."""
    gone: list[bytes] = []

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\npiece")
        gone.append(await reader.read())

    async def scenario() -> None:
        async with relayed(upstream) as (passing, reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await reader.readuntil(b"piece")
            writer.transport.abort()
            assert await passing.ends.get() == "done"

    run(scenario())
