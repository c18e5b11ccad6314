"""What goes on after a WebSocket has opened, and what a request is refused with before the gateway is asked.

tests/integration/test_web_services.py has the rest, with real gateways.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from arv_ssh.api.client import ApiClient
from arv_ssh.audit.trail import OFF
from arv_ssh.config import cluster_config
from arv_ssh.controller.gateways.tunnels import Tunnels
from arv_ssh.controller.peers.peers import Peers
from arv_ssh.controller.web_services import endpoint, grants
from arv_ssh.controller.web_services.authorize import Asked, Grant
from arv_ssh.controller.web_services.endpoint import WebServices
from arv_ssh.controller.web_services.names import Target
from arv_ssh.controller.web_services.visits import Visitor
from arv_ssh.errors import BadGateway, Forbidden, HttpError
from arv_ssh.net.http_messages import Request, Response, StreamedResponse
from arv_ssh.net.relay import Relay

UUID = "zzzzz-dz642-abcdeabcdeabcde"
HOST = f"{UUID}-80.c.example.org"
CONFIG = cluster_config.parse(
    "zzzzz",
    {
        "SystemRootToken": "roottoken", "API": "https://api.invalid",
        "Services": {"ContainerWebServices": {"ExternalURL": "https://*.c.example.org"}},
    },
)  # fmt: skip


def services() -> WebServices:
    tunnels = Tunnels(CONFIG, Peers(Path("/nowhere/controller.sock"), "", ()))
    return WebServices(CONFIG, cast(ApiClient, None), tunnels, OFF)


class Decisions:
    """Answers of ``authorize``, one after the other; the last one stays."""

    def __init__(self, *answers: HttpError | None) -> None:
        self._answers = list(answers)
        self.asked = 0

    def __call__(self, *_: Any) -> Grant:
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is not None:
            raise answer
        return Grant({"uuid": UUID, "gateway_address": ""}, 80)


class FakeRelay:
    """A relay of which only the end matters; the container's side has sent seven bytes."""

    class b:
        received = 7

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    def close(self) -> None:
        self.closed.set()


def test_a_websocket_whose_user_lost_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed when the API says no; an API that cannot answer ends nothing."""
    monkeypatch.setattr(endpoint, "REVIEW", 0.01)
    decisions = Decisions(None, BadGateway("later"), Forbidden("no more"))
    monkeypatch.setattr(grants, "authorize", decisions)

    async def scenario() -> None:
        web, relay = services(), FakeRelay()
        exchange = await web._visits.enter(Visitor("", UUID, 80, "192.0.2.1"), "req-1")
        web._joined(Asked(Target(UUID, 80), "token", "req-1"), cast(Relay, relay), exchange)
        await asyncio.wait_for(relay.closed.wait(), 30)
        assert decisions.asked == 3
        exchange.close()  # as the relay's end does
        assert exchange.sent == 7 and not web._relays and not web._reviews
        web.close()

    asyncio.run(scenario())


def test_a_websocket_that_is_closed_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the WebSocket the looks end; stopping closes what is open."""
    decisions = Decisions(None)
    monkeypatch.setattr(grants, "authorize", decisions)

    async def scenario() -> None:
        web, relays = services(), [FakeRelay(), FakeRelay()]
        for relay in relays:
            exchange = await web._visits.enter(Visitor("", UUID, 80, "192.0.2.1"), "req-1")
            web._joined(Asked(Target(UUID, 80), "token", "req-1"), cast(Relay, relay), exchange)
        exchange.close()
        await asyncio.sleep(0)
        assert len(web._reviews) == 1
        web.close()
        assert relays[0].closed.is_set() and not relays[1].closed.is_set()
        for review in list(web._reviews):  # as the relay's end does
            review.cancel()

    asyncio.run(scenario())


class Ticks:
    """An answer without an end, such as server-sent events."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield b"tick"

    async def aclose(self) -> None:
        pass


def test_an_answer_whose_user_lost_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut when the API says no; an API that cannot answer ends nothing."""
    monkeypatch.setattr(endpoint, "REVIEW", 0.0)
    decisions = Decisions(None, BadGateway("later"), None, Forbidden("no more"))
    monkeypatch.setattr(grants, "authorize", decisions)
    request = Request("GET", "/", "", {"host": HOST}, b"", "192.0.2.1", "req-1", target=b"/")

    async def exchange(*_: object) -> StreamedResponse:
        return StreamedResponse(200, b"OK", [], Ticks())

    async def scenario() -> None:
        web = services()
        monkeypatch.setattr(web, "_exchange", exchange)
        answer = await web.handle(request)
        assert isinstance(answer, StreamedResponse)
        taken = []
        with pytest.raises(Forbidden, match="no more"):
            async for piece in answer.chunks:
                taken.append(piece)
        assert taken == [b"tick"] * 2 and decisions.asked == 4
        web.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("target", "status"), [("/?arvados_api_token=x", 303), ("/", 403)], ids=["token in the address", "refused"]
)
def test_before_the_gateway(monkeypatch: pytest.MonkeyPatch, target: str, status: int) -> None:
    """A token leaves the address before anything is decided; a refusal is plain text, which no browser interprets."""
    decisions = Decisions(Forbidden("<b>no</b>"))
    monkeypatch.setattr(grants, "authorize", decisions)
    query = target.partition("?")[2]
    request = Request("GET", "/", query, {"host": HOST}, b"", "192.0.2.1", "req-1", target=target.encode())

    async def scenario() -> Response:
        web = services()
        assert web.serves(request)
        answer = await web.handle(request)
        web.close()
        assert isinstance(answer, Response)
        return answer

    answer = asyncio.run(scenario())
    assert answer.status == status and decisions.asked == (status == 403)
    if status == 403:
        assert (answer.body, answer.content_type) == (b"<b>no</b>\n", "text/plain; charset=utf-8")
        assert ("X-Content-Type-Options", "nosniff") in answer.headers
