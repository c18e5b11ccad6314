"""Requests to another controller: over its private socket, at its URL, and the ways to get no answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from arv_ssh.controller.peers import peer_client
from arv_ssh.controller.peers.peer_client import PeerRequest
from arv_ssh.errors import BadGateway, HttpError, Unavailable
from arv_ssh.net.http_messages import Request, Response
from arv_ssh.net.http_server import HttpConnection
from arv_ssh.net.tls_transport import TlsLayer
from crunch_sshd.gateway import certificate
from tests.timing import DEADLINE

ASKED = PeerRequest("POST", "/x?scope=host", "proof", {"X-Own": "1"}, {"reason": "r"})


def asked(use: Callable[[], Awaitable[None]]) -> None:
    async def scenario() -> None:
        await use()

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))


async def echo(request: Request) -> Response:
    """Answer with what was asked."""
    seen = [request.method, request.path, request.query, request.token(), request.headers["x-own"]]
    return Response(404, json.dumps([*seen, request.body.decode()]).encode())


EXPECTED = ["POST", "/x", "scope=host", "proof", "1", '{"reason": "r"}']


def test_private_socket(tmp_path: Path) -> None:
    """The whole request arrives, and status and body come back, an error's too."""

    async def use() -> None:
        path = str(tmp_path / "s")
        loop = asyncio.get_running_loop()
        async with await loop.create_unix_server(lambda: HttpConnection(echo), path):
            status, body = await peer_client.ask(path, ASKED, DEADLINE)
        assert (status, json.loads(body)) == (404, EXPECTED)

    asked(use)


def test_url() -> None:
    """Another host's controller is asked at its URL, over TLS that must be trusted."""

    async def use() -> None:
        context, _ = certificate.fresh()
        loop = asyncio.get_running_loop()
        async with await loop.create_server(
            lambda: TlsLayer(context, HttpConnection(echo), server_side=True), "127.0.0.1", 0
        ) as server:
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            status, body = await peer_client.ask(url, ASKED, DEADLINE, verify=False)
            assert (status, json.loads(body)) == (404, EXPECTED)
            with pytest.raises(BadGateway, match="^it cannot be trusted"):
                await peer_client.ask(url, ASKED, DEADLINE)

    asked(use)


def test_nobody_there(tmp_path: Path) -> None:
    """A process that is gone, and a host that does not listen, are said to be."""

    async def use() -> None:
        for place in (str(tmp_path / "gone"), "http://127.0.0.1:1"):
            with pytest.raises(Unavailable, match="^it cannot be reached"):
                await peer_client.ask(place, ASKED, DEADLINE)

    asked(use)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal", "in the middle of its answer"),
     (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlarge", "more than 4 bytes"), (b"", "before it answered")],
)  # fmt: skip
def test_no_whole_answer(tmp_path: Path, answer: bytes, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an answer is none, and neither is one without an end."""
    monkeypatch.setattr(peer_client, "MAX_ANSWER", 4)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(answer)
        writer.close()

    async def use() -> None:
        async with await asyncio.start_unix_server(serve, str(tmp_path / "s")):
            with pytest.raises(HttpError, match=sentence):
                await peer_client.ask(str(tmp_path / "s"), ASKED, DEADLINE)

    asked(use)


def test_silent_peer(tmp_path: Path) -> None:
    """A process that hangs is given up in time."""

    async def use() -> None:
        gone = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()
            gone.set()

        async with await asyncio.start_unix_server(serve, str(tmp_path / "s")):
            with pytest.raises(TimeoutError):
                await peer_client.ask(str(tmp_path / "s"), ASKED, 0.05)
            await gone.wait()

    asked(use)


def test_token_is_not_shown() -> None:
    """A request in a traceback shows no token."""
    assert "proof" not in repr(ASKED)
