"""Sessions without a connection: how often their gateway is asked, and when each leaves the registry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from arv_ssh.controller.gateways import dial
from arv_ssh.controller.gateways.dial import HeldState
from arv_ssh.controller.shell import waiting
from arv_ssh.controller.shell.sessions import CLIENT_LEFT, MOVED, LiveConnection, Sessions
from arv_ssh.controller.shell.waiting import WaitingSessions
from arv_ssh.errors import Unavailable
from arv_ssh.trust import credentials
from tests.timing import DEADLINE, SECOND
from tests.unit.arv_ssh.controller.sessions import CONTAINER, session
from tests.unit.arv_ssh.streams import Wire

ROOT = "roottoken"


class Site:
    """Sessions, and a gateway that answers with ``states``, or not at all if None; ``asked`` has each question."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dial, "states", self._states)
        monkeypatch.setattr(waiting, "PERIOD", 0.04 * SECOND)
        monkeypatch.setattr(waiting, "LEAST", 0.02 * SECOND)
        self.sessions = Sessions()
        self.states: dict[str, HeldState] | None = {}
        self.asked: list[list[str]] = []
        self.gateway: dial.Gateway | None = None
        self.failure: Exception | None = None

    async def _states(self, gateway: dial.Gateway, sessions: Sequence[str]) -> dict[str, HeldState]:
        self.gateway = gateway
        self.asked.append(list(sessions))
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        if self.states is None:
            raise Unavailable("cut off")
        return {name: self.states[name] for name in sessions if name in self.states}

    def begin(self, number: int, state: HeldState | None, attempt: int = 0, hold: float = 600.0) -> LiveConnection:
        """Begin a session of which the gateway says ``state``, and have it lose its connection."""
        live = session(id=f"ses-{number:020x}", hold=hold, attempt=attempt)
        if state is not None and self.states is not None:
            self.states[live.id] = state
        client, gateway = Wire(), Wire()
        self.sessions.run(live, (client, b""), (gateway, b""))
        client.lose()
        gateway.lose()
        return live

    async def asked_again(self, times: int = 1) -> None:
        """Wait for so many more questions, and what comes of them."""
        wanted = len(self.asked) + times
        while len(self.asked) < wanted:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.005)


Scenario = Callable[[Callable[[Site], Awaitable[None]]], Site]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """Run a scenario at a site."""

    async def whole(scenario: Callable[[Site], Awaitable[None]]) -> Site:
        site = Site(monkeypatch)
        watched = WaitingSessions(ROOT, site.sessions)
        try:
            async with asyncio.timeout(DEADLINE):
                await scenario(site)
        finally:
            watched.close()
        return site

    return lambda scenario: asyncio.run(whole(scenario))


def test_one_question_for_all(run: Scenario) -> None:
    """A gateway is asked once in a while about all of its sessions that wait, not once for each."""

    async def scenario(site: Site) -> None:
        for number in range(300):
            site.begin(number, HeldState("waiting", 0))
        await site.asked_again(3)

    site = run(scenario)
    assert [len(names) for names in site.asked[-2:]] == [300, 300] and len(site.asked) < 6
    assert site.gateway is not None and site.gateway.secret == credentials.container_secret(ROOT, CONTAINER)


def test_more_than_one_question_may_be_about(run: Scenario) -> None:
    """More sessions than a gateway answers at once are asked for in portions."""

    async def scenario(site: Site) -> None:
        for number in range(1200):
            site.begin(number, HeldState("waiting", 0))
        await site.asked_again(3)

    assert [len(names) for names in run(scenario).asked[:3]] == [500, 500, 200]


def test_each_leaves_by_its_own_state(run: Scenario) -> None:
    """Who waits stays; who is gone has left, and who is connected again went on elsewhere."""

    async def scenario(site: Site) -> None:
        stays = site.begin(1, HeldState("waiting", 0))
        gone = site.begin(2, None)
        moved = site.begin(3, HeldState("connected", 5), attempt=4)
        await site.asked_again(2)
        assert list(site.sessions) == [stays]
        assert gone.reason.startswith(CLIENT_LEFT) and moved.reason == MOVED

    run(scenario)


def test_a_loss_that_the_gateway_has_not_noticed(run: Scenario) -> None:
    """A session that its gateway believes connected, by the connection that is lost, still waits."""

    async def scenario(site: Site) -> None:
        live = site.begin(1, HeldState("connected", 4), attempt=4)
        await site.asked_again(2)
        assert list(site.sessions) == [live]

    run(scenario)


def test_a_gateway_that_is_cut_off(run: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the gateway cannot be asked, a session stays; after its time it has left."""
    monkeypatch.setattr(waiting, "MARGIN", 0.0)

    async def scenario(site: Site) -> None:
        site.states = None
        stays, late = site.begin(1, None), site.begin(2, None, hold=0.001)
        await site.asked_again(2)
        assert list(site.sessions) == [stays]
        assert "did not come back for 0.001 s" in late.reason

    run(scenario)


def test_an_odd_answer(run: Scenario) -> None:
    """A gateway whose answer nobody foresaw is asked again, and a session leaves all the same."""

    async def scenario(site: Site) -> None:
        site.failure = OverflowError("an attempt without end")
        live = site.begin(1, HeldState("waiting", 0))
        await site.asked_again(2)
        assert list(site.sessions) == [live]
        site.failure, site.states = None, {}
        await site.asked_again()
        assert not len(site.sessions)

    run(scenario)


def test_nobody_is_asked_about_nothing(run: Scenario) -> None:
    """Once none waits, the gateway is left alone; with the next loss it is asked again."""

    async def scenario(site: Site) -> None:
        site.begin(1, None)
        await site.asked_again()
        assert not len(site.sessions)
        before = len(site.asked)
        await asyncio.sleep(0.1 * SECOND)
        assert len(site.asked) == before
        site.begin(2, HeldState("waiting", 0))
        await site.asked_again()

    run(scenario)
