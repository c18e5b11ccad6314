"""The end of a session that its user did not ask for: by the gateway's word, or by a cut."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from arv_ssh.controller.gateways import dial
from arv_ssh.controller.shell import endings
from arv_ssh.controller.shell.sessions import KILLED, REVOKED, LiveConnection, Sessions
from arv_ssh.errors import BadGateway, HttpError
from arv_ssh.trust import credentials
from tests.timing import DEADLINE
from tests.unit.arv_ssh.controller.sessions import CONTAINER, USER, session
from tests.unit.arv_ssh.streams import Wire

ROOT = "roottoken"


class Scene:
    """A live session; ``refusal`` is what the gateway answers to POST /end, None a yes after which both sides leave."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.live = session()
        self.client, self.gateway = Wire(), Wire()
        self.refusal: HttpError | None = None
        self.leaves = True
        self.asked: list[tuple[dial.Target, str]] = []
        monkeypatch.setattr(dial, "end", self._end)
        monkeypatch.setattr(endings, "CLIENT_PATIENCE", 0.05)
        monkeypatch.setattr(endings, "GATEWAY_PATIENCE", 0.05)

    def open(self) -> LiveConnection:
        Sessions().run(self.live, (self.client, b""), (self.gateway, b""))
        return self.live

    async def _end(self, target: dial.Target, reason: str) -> None:
        self.asked.append((target, reason))
        if self.refusal:
            raise self.refusal
        if self.leaves:
            self.gateway.lose()
            self.client.lose()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, DEADLINE))


def test_the_gateway_tells_the_client(scene: Scene) -> None:
    """The gateway is asked to end that user's session of that request, with the sentence; the reason is ours."""

    async def scenario() -> None:
        await endings.end(scene.open(), REVOKED, "the API token expired", ROOT)

    run(scenario())
    ((target, sentence),) = scene.asked
    assert sentence == "the API token expired"
    assert target.secret == credentials.container_secret(ROOT, CONTAINER)
    assert target.gateway_address == scene.live.gateway_address
    assert (target.session.user_uuid, target.session.request_id) == (USER, scene.live.request_id)
    assert scene.live.reason == "revoked: the API token expired"
    assert scene.client.log.count("abort") == 0


def test_a_stock_gateway(scene: Scene) -> None:
    """Where the gateway knows no such request, both sides are closed at once."""
    scene.refusal = BadGateway("nothing at /end")

    async def scenario() -> None:
        ending = asyncio.create_task(endings.end(scene.open(), KILLED, "out", ROOT))
        while not scene.client.is_closing():
            await asyncio.sleep(0)
        assert scene.gateway.is_closing()
        scene.client.lose()
        scene.gateway.lose()
        await ending

    run(scenario())
    assert "abort" not in scene.client.log


def test_sides_that_do_not_close(scene: Scene) -> None:
    """A client that takes nothing, and a gateway that promised and did nothing, are cut."""
    scene.leaves = False

    async def scenario() -> None:
        await endings.end(scene.open(), KILLED, "out", ROOT)

    run(scenario())
    assert scene.client.log[-2:] == ["close", "abort"] and scene.gateway.log[-2:] == ["close", "abort"]


def test_a_second_cause_changes_nothing(scene: Scene) -> None:
    """A session that is being ended is not ended again."""

    async def scenario() -> None:
        live = scene.open()
        await endings.end(live, KILLED, "first", ROOT)
        await endings.end(live, REVOKED, "second", ROOT)

    run(scenario())
    assert len(scene.asked) == 1 and scene.live.reason == "killed: first"
