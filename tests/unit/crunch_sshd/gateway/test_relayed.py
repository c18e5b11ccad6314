"""Requests relayed to stock's gateway: the proofs of both ends, and everything else untouched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import pytest

from arv_ssh.errors import BadGateway, Unavailable
from arv_ssh.net.http_messages import Answer, Request, Response, StreamedResponse
from arv_ssh.net.request_stream import RequestStream
from arv_ssh.trust import credentials
from crunch_sshd.gateway import certificate
from crunch_sshd.gateway.relayed import Relayed
from tests.timing import DEADLINE

UUID = "zzzzz-dz642-abcdeabcdeabcde"
SECRET = "5ecret"  # nobody's
MANY = b"0123456789abcdef" * 65536


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, DEADLINE))


def request(method: str = "GET", target: bytes = b"/x?y=%20", headers: Any = (), stream: Any = None) -> Request:
    raw = [
        (b"host", b"service.example"), (b"x-arvados-authorization", b"for us"), (b"x-arvados-session", b"for us"),
        (b"x-arvados-session-authorization", b"for us"), (b"x-arvados-container-target-port", b"80"), *headers,
    ]  # fmt: skip
    fields = {name.decode(): value.decode() for name, value in raw}
    return Request(
        method=method, path="/x", query="", headers=fields, body=b"", peer="", request_id="req-1", stream=stream,
        target=target, raw_headers=raw,
    )  # fmt: skip


class Stock:
    """Stock's gateway: it answers ``head`` and ``body``, with ``proof`` in the place of its own if there is one."""

    def __init__(self, proof: str | None = None) -> None:
        self.context, self.der = certificate.fresh()
        self.expected = credentials.request_auth(SECRET, self.der)
        self.proof = credentials.respond_auth(SECRET, self.expected) if proof is None else proof
        self.head = b"HTTP/1.1 200 Fine\r\n"
        self.body = b"ok"
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.address = ""
        self.ended = asyncio.Event()

    async def log(self, request: Request) -> Answer:
        """Be this gateway's own services, which serve no logs."""
        raise AssertionError("logs are relayed")

    async def port(self, request: Request, port: int) -> Answer:
        """Be this gateway's own services."""
        return Response(200, f"served here: {port}".encode())

    def close(self) -> None:
        """Be closed with the relay."""
        self.closed = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
        self.bodies.append(await reader.readexactly(int(fields.get(b"content-length", 0))))
        proof = f"X-Arvados-Authorization-Response: {self.proof}\r\n".encode() if self.proof else b""
        writer.write(self.head + proof + b"Content-Length: %d\r\n\r\n" % len(self.body) + self.body)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        self.ended.set()


@asynccontextmanager
async def stock(proof: str | None = None) -> AsyncIterator[tuple[Stock, Relayed]]:
    result = Stock(proof)
    server = await asyncio.start_server(result.serve, "127.0.0.1", 0, ssl=result.context)
    host, port = server.sockets[0].getsockname()
    result.address = f"{host}:{port}"
    async with server:
        yield result, Relayed(result.address, UUID, SECRET, result)
        if result.heads:
            await result.ended.wait()


async def taken(answer: Any) -> bytes:
    assert isinstance(answer, StreamedResponse)
    async with aclosing(answer.chunks) as chunks:
        return b"".join([piece async for piece in chunks])


@pytest.mark.parametrize("kind", ["log", "port"])
def test_the_request(kind: str) -> None:
    """Stock has its own proof and the request's head as it came; what is between the controller and us stays here."""

    async def scenario() -> None:
        async with stock() as (inner, relayed):
            more = [(b"range", b"bytes=1-"), (b"x-webdav-source", b"/log"), (b"cookie", b"a"), (b"cookie", b"b")]
            asked = request(headers=more)
            answer = await (relayed.log(asked) if kind == "log" else relayed.port(asked, 80))
            assert await taken(answer) == b"ok"
            head = inner.heads[0].decode()
            assert head.startswith("GET /x?y=%20 HTTP/1.1\r\n")
            for line in (
                "host: service.example", "range: bytes=1-", "x-webdav-source: /log", "cookie: a", "cookie: b",
                "x-arvados-container-target-port: 80", f"x-arvados-authorization: {inner.expected}",
                f"x-arvados-container-gateway-uuid: {UUID}", "connection: close",
            ):  # fmt: skip
                assert head.lower().count(f"\r\n{line}\r\n") == 1, line
            assert "for us" not in head

    run(scenario())


def test_the_answer() -> None:
    """A redirect, a header that comes twice, and the reason are passed on; the inner proof is not."""

    async def scenario() -> None:
        async with stock() as (inner, relayed):
            inner.head = b"HTTP/1.1 303 Over there\r\nLocation: /elsewhere\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
            answer = await relayed.port(request(), 80)
            assert isinstance(answer, StreamedResponse)
            assert (answer.status, answer.reason) == (303, b"Over there")
            cookies = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
            assert answer.headers == [(b"location", b"/elsewhere"), *cookies, (b"content-length", b"2")]
            await taken(answer)

    run(scenario())


def test_large_bodies() -> None:
    """A body goes through both ways, piece by piece."""

    async def scenario() -> None:
        async with stock() as (inner, relayed):
            inner.body = MANY
            stream = RequestStream(pause=lambda: None, resume=lambda: None, send_continue=lambda: None)
            length = (b"content-length", str(len(MANY)).encode())
            asking = asyncio.create_task(relayed.port(request("POST", headers=[length], stream=stream), 80))
            for start in range(0, len(MANY), 100_000):
                stream.feed(MANY[start : start + 100_000])
                await asyncio.sleep(0)
            stream.feed_end()
            assert await taken(await asking) == MANY
            assert inner.bodies == [MANY]

    run(scenario())


@pytest.mark.parametrize("proof", ["", "wrong", "0" * 64])
def test_not_stocks_gateway(proof: str) -> None:
    """What does not know the secret is not believed, whatever it answers."""

    async def scenario() -> None:
        async with stock(proof) as (_, relayed):
            with pytest.raises(BadGateway, match=f"stock's gateway of container {UUID} is not that gateway"):
                await relayed.log(request())

    run(scenario())


def test_websockets() -> None:
    """Stock's gateway cannot switch to a WebSocket; this one does, for ports alone."""

    async def scenario() -> None:
        async with stock() as (inner, relayed):
            asked = request(headers=[(b"upgrade", b"websocket"), (b"connection", b"Upgrade")])
            answer = await relayed.port(asked, 8080)
            assert isinstance(answer, Response) and answer.body == b"served here: 8080"
            assert not inner.heads

    run(scenario())


def test_close() -> None:
    """A request under way ends with the gateway."""

    async def scenario() -> None:
        async with stock() as (inner, relayed):
            inner.body = MANY
            answer = await relayed.port(request(), 80)
            relayed.close()
            with pytest.raises(BadGateway, match="closed the connection"):
                await taken(answer)
            assert inner.closed

    run(scenario())


def test_unreachable() -> None:
    """A gateway that has ended is said to be."""

    async def scenario() -> None:
        async with stock() as (_, relayed):
            pass
        with pytest.raises(Unavailable, match="cannot be reached"):
            await relayed.log(request())

    run(scenario())
