"""Upgrades asked for over a real socket: what comes of each answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.errors import BadGateway, Forbidden, GatewayTimeout, HttpError
from arv_ssh.net.http_client import Address
from arv_ssh.net.upgraded import UpgradeRequest, open_upgraded
from tests.timing import DEADLINE

REQUEST = UpgradeRequest("/x", "host", [("X-Own", "1")], {"a": "1 2", "b": ""}, "tunnel")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tunnel\r\nX-Theirs: 2\r\n\r\n"


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, DEADLINE))


def serve(tmp_path: Path, answer: bytes, use: Callable[[Address], Coroutine[Any, Any, None]]) -> bytes:
    """Give ``use`` the address of a server that says ``answer`` to one request; return all that it received."""
    received = bytearray()

    async def scenario() -> None:
        done = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received.extend(await reader.readuntil(b"a=1%202&b="))
            writer.write(answer)
            received.extend(await reader.read())
            writer.close()
            done.set()

        path = tmp_path / "s"
        async with await asyncio.start_unix_server(talk, str(path)):
            await use(Address("the peer", path=path))
            await done.wait()

    run(scenario())
    return bytes(received)


def test_switch(tmp_path: Path) -> None:
    """A 101 leaves a paused connection, what came with it, and its headers."""

    async def use(address: Address) -> None:
        opened = await open_upgraded(address, REQUEST, answer_timeout=DEADLINE)
        assert not opened.transport.is_reading()
        assert (opened.early, opened.headers["x-theirs"]) == (b"early", "2")
        opened.transport.write(b"ours")
        opened.transport.close()

    received = serve(tmp_path, SWITCHED + b"early", use)
    head, _, rest = received.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /x HTTP/1.1\r\n") and rest == b"a=1%202&b=ours"
    lines = {line.lower() for line in head.decode().split("\r\n")}
    assert {"host: host", "x-own: 1", "connection: upgrade", "upgrade: tunnel", "content-length: 10"} <= lines


@pytest.mark.parametrize(
    ("answer", "kind", "sentence"),
    [
        (b'HTTP/1.1 403 No\r\nContent-Length: 21\r\n\r\n{"errors": ["not x"]}', Forbidden, "^not x$"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", BadGateway, "the peer answered 200 OK instead of switching"),
        (SWITCHED.replace(b"tunnel", b"ssh"), BadGateway, "the peer switched to a protocol other than a tunnel"),
        (b"SSH-2.0-x\r\n", BadGateway, "the peer does not answer in HTTP"),
    ],
    ids=["refusal", "200", "other protocol", "no HTTP"],
)
def test_no_switch(tmp_path: Path, answer: bytes, kind: type[HttpError], sentence: str) -> None:
    """Any other answer is the error it means, and the connection is closed."""

    async def use(address: Address) -> None:
        with pytest.raises(HttpError, match=sentence) as caught:
            await open_upgraded(address, REQUEST, answer_timeout=DEADLINE)
        assert type(caught.value) is kind

    serve(tmp_path, answer, use)


def test_no_answer(tmp_path: Path) -> None:
    """A server that says nothing is given up in time."""

    async def use(address: Address) -> None:
        with pytest.raises(GatewayTimeout, match="the peer did not answer in time"):
            await open_upgraded(address, REQUEST, answer_timeout=0.05)

    serve(tmp_path, b"", use)


def test_nothing_secret_is_shown() -> None:
    """Headers and form may hold tokens: a request that ends up in a traceback shows neither."""
    shown = repr(UpgradeRequest("/x", "host", [("Authorization", "Bearer s3cret")], {"auth_secret": "s3cret"}))
    assert "s3cret" not in shown
