"""Rights that hold for a moment, for who has them and for what they are to."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from arv_ssh.controller.api_calls import ApiCalls
from arv_ssh.controller.web_services import grants
from arv_ssh.controller.web_services.authorize import Asked, Grant
from arv_ssh.controller.web_services.grants import HOLDS, Grants
from arv_ssh.controller.web_services.names import Target
from arv_ssh.errors import Forbidden

ONE, OTHER = "zzzzz-dz642-000000000000001", "zzzzz-dz642-000000000000002"


class Api:
    """Decides, and notes what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Asked] = []
        self.refuses = False
        monkeypatch.setattr(grants, "authorize", self.authorize)

    async def run(self, call: Any, *arguments: Any) -> Grant:
        return cast(Grant, call(*arguments))

    def authorize(self, _calls: Any, _ports: Any, asked: Asked) -> Grant:
        self.asked.append(asked)
        if self.refuses:
            raise Forbidden("no")
        return Grant({"uuid": asked.target.uuid}, asked.target.port)


def test_a_right_holds_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within that moment nobody is asked; another user, container or port is another right."""
    api, now = Api(monkeypatch), [0.0]

    async def scenario() -> None:
        found = Grants(cast(ApiCalls, api), lambda: now[0])
        mine = Asked(Target(ONE, 80), "mine", "req-1")
        for _ in range(3):
            assert (await found.find(mine)).uuid == ONE
        assert len(api.asked) == 1
        for other in (Asked(Target(ONE, 81), "mine", ""), Asked(Target(OTHER, 80), "mine", ""),
                      Asked(Target(ONE, 80), "yours", "")):  # fmt: skip
            await found.find(other)
        assert len(api.asked) == 4
        now[0] += HOLDS
        api.refuses = True
        with pytest.raises(Forbidden):
            await found.find(mine)

    asyncio.run(scenario())


def test_a_refusal_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks anew and is refused has the right no more; refusals are not kept."""
    api = Api(monkeypatch)

    async def scenario() -> None:
        found = Grants(cast(ApiCalls, api), lambda: 0.0)
        mine = Asked(Target(ONE, 80), "mine", "req-1")
        await found.find(mine)
        api.refuses = True
        for ask in (found.ask, found.find, found.find):
            with pytest.raises(Forbidden):
                await ask(mine)
        assert len(api.asked) == 4

    asyncio.run(scenario())


def test_rights_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes."""
    monkeypatch.setattr(grants, "MAX_KEPT", 2)
    api = Api(monkeypatch)

    async def scenario() -> None:
        found = Grants(cast(ApiCalls, api), lambda: 0.0)
        for port in (1, 2, 3, 3, 2, 1):
            await found.find(Asked(Target(ONE, port), "mine", "req-1"))
        assert [asked.target.port for asked in api.asked] == [1, 2, 3, 1]

    asyncio.run(scenario())
