"""A user's request at a gateway: what it is sent, and that nothing of an impostor reaches the user."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from arv_ssh.controller.gateways import requests
from arv_ssh.controller.gateways.dial import Gateway, NotTheGateway
from arv_ssh.controller.gateways.requests import Watch
from arv_ssh.errors import HttpError, Unavailable
from arv_ssh.net.http_messages import Request, StreamedResponse
from arv_ssh.trust import credentials
from crunch_sshd.gateway import certificate

UUID = "zzzzz-dz642-abcdeabcdeabcde"
SECRET = credentials.container_secret("root token", UUID)
CONTEXT, DER = certificate.fresh()
PROOF = credentials.request_auth(SECRET, DER)
RESPOND = credentials.respond_auth(SECRET, PROOF)
REQUEST = Request("GET", "/a b", "c", {}, b"", "192.0.2.1", "req-1", target=b"/a%20b?c")


async def ask(address: str, watch: Watch) -> tuple[StreamedResponse, bytes]:
    """Ask the gateway at ``address``; return the answer and its body."""
    answer = await requests.pass_on(Gateway(UUID, SECRET, address), REQUEST, "/a%20b?c", [(b"host", b"app")], watch)
    assert isinstance(answer, StreamedResponse)
    body = b"".join([piece async for piece in answer.chunks])
    await answer.chunks.aclose()
    return answer, body


def serve(answer: str, use: Callable[[str], Awaitable[None]]) -> list[str]:
    """Run a TLS server that gives ``answer`` to anything while ``use`` is made of it; return the requests it got."""
    heads: list[str] = []

    async def scenario() -> None:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(answer.encode())
            await writer.drain()
            await reader.read()
            writer.transport.abort()

        server = await asyncio.start_server(speak, "127.0.0.1", 0, ssl=CONTEXT)
        async with server:
            await use(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")

    asyncio.run(asyncio.wait_for(scenario(), 30))
    return heads


def test_proven() -> None:
    """The gateway gets our proof for its certificate; its own goes no further, and the owner hears of the end."""
    ended: list[bool] = []

    async def use(address: str) -> None:
        answer, body = await ask(address, Watch(done=lambda: ended.append(True)))
        assert (answer.status, answer.headers, body) == (200, [(b"a", b"1"), (b"content-length", b"2")], b"ok")
        assert ended == [True]

    headers = f"A: 1\r\nX-Arvados-Authorization-Response: {RESPOND}\r\nConnection: close, b\r\nB: 2\r\n"
    (head,) = serve(f"HTTP/1.1 200 OK\r\n{headers}Content-Length: 2\r\n\r\nok", use)
    assert head.startswith("GET /a%20b?c HTTP/1.1\r\n") and f"x-arvados-authorization: {PROOF}" in head.lower()


@pytest.mark.parametrize("headers", ["", "X-Arvados-Authorization-Response: 0\r\n"])
@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden"])
def test_an_impostor(status: str, headers: str) -> None:
    """An answer without the right proof is none, whatever its status."""
    ended: list[bool] = []

    async def use(address: str) -> None:
        with pytest.raises(NotTheGateway, match="is not its gateway"):
            await ask(address, Watch(done=lambda: ended.append(True)))

    serve(f"HTTP/1.1 {status}\r\n{headers}Content-Length: 2\r\n\r\nok", use)
    assert ended == [True]


def test_nobody_there() -> None:
    """A gateway that cannot be reached is a sentence, and the owner hears of the end."""
    ended: list[bool] = []

    async def use() -> None:
        with pytest.raises(HttpError) as caught:
            await ask("127.0.0.1:1", Watch(done=lambda: ended.append(True)))
        assert type(caught.value) is Unavailable and "cannot be reached" in str(caught.value)

    asyncio.run(use())
    assert ended == [True]
