"""A body as it comes: order, its end, what it fails with, and a client that has to wait for a slow reader."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from arv_ssh.errors import BadRequest
from arv_ssh.net.request_stream import HIGH_WATER, RequestStream


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


def stream(log: list[str]) -> RequestStream:
    return RequestStream(
        pause=lambda: log.append("pause"), resume=lambda: log.append("resume"),
        send_continue=lambda: log.append("continue"),
    )  # fmt: skip


def test_order_and_end() -> None:
    """What came before and after a read is read in its order, then the end again and again."""

    async def scenario() -> None:
        body = stream([])
        body.feed(b"a")
        body.feed(b"b")
        assert await body.read() == b"ab"
        reading = asyncio.ensure_future(body.read())
        await asyncio.sleep(0)
        body.feed(b"c")
        body.feed_end()
        assert [await reading, await body.read(), await body.read()] == [b"c", b"", b""]

    run(scenario())


def test_failure_comes_after_what_was_received() -> None:
    """A body that breaks off is read as far as it came."""

    async def scenario() -> None:
        body = stream([])
        body.feed(b"a")
        body.fail(BadRequest("cut"))
        assert await body.read() == b"a"
        with pytest.raises(BadRequest, match="cut"):
            await body.read()

    run(scenario())


def test_slow_reader() -> None:
    """Above the mark the client is paused once, and let go on when all of it is read."""

    async def scenario() -> None:
        log: list[str] = []
        body = stream(log)
        for _ in range(3):
            body.feed(bytes(HIGH_WATER))
        assert log == ["pause"]
        assert len(await body.read()) == 3 * HIGH_WATER
        assert log == ["pause", "resume"]

    run(scenario())
