"""What a gateway serves itself: which requests for logs there may be at once. Ports have a test of their own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.errors import MethodNotAllowed, NotFound, Unavailable
from arv_ssh.net.http_messages import Request, StreamedResponse
from arv_ssh.webdav.server import DavServer
from crunch_sshd.gateway.served import Served
from crunch_sshd.ssh.limits import LOG_REQUESTS


class NoPorts:
    """Ports that nobody asks for."""

    def close(self) -> None:
        pass


def request(method: str = "GET") -> Request:
    headers = {"x-webdav-prefix": "/logs"}
    return Request(method, "/logs/a.txt", "", headers, b"", "", "req-1", target=b"/logs/a.txt")


def test_logs(tmp_path: Path) -> None:
    """Requests for logs have a limit, counted until each answer is let go of; refusals do not count."""
    (tmp_path / "a.txt").write_text("a")
    ports: Any = NoPorts()

    async def scenario() -> None:
        served = Served(ports, DavServer(tmp_path))
        answers = [await served.log(request()) for _ in range(LOG_REQUESTS)]
        with pytest.raises(Unavailable, match="are under way"):
            await served.log(request())
        for answer in answers:
            assert isinstance(answer, StreamedResponse)
            assert [piece async for piece in answer.chunks] == [b"a"]
            await answer.chunks.aclose()
        for _ in range(LOG_REQUESTS + 1):
            with pytest.raises(MethodNotAllowed):
                await served.log(request("PUT"))
        served.close()

    asyncio.run(scenario())


def test_no_logs() -> None:
    """A gateway without a log directory says so."""
    ports: Any = NoPorts()

    async def scenario() -> None:
        served = Served(ports, None)
        with pytest.raises(NotFound, match="no log directory"):
            await served.log(request())
        served.close()

    asyncio.run(scenario())
