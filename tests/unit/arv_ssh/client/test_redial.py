"""When ssh-proxy dials again for a session: at once, and less and less often while that brings nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from arv_ssh.client import redial
from arv_ssh.client.controller import Controller, SessionOver
from arv_ssh.client.redial import FIRST_PAUSE, LONGEST_PAUSE, Redial
from arv_ssh.client.relay import Cut
from arv_ssh.errors import BadGateway, Unavailable
from arv_ssh.resume.negotiation import Grant

SESSION = "ses-" + "1" * 20
CUT = Cut("the connection was cut")


class Site:
    """A controller, its gateway, and the clock; ``fails`` are what the next requests meet."""

    watch = None

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []
        self.fails: list[Exception] = []
        self.have = 0
        self.grant = Grant(SESSION, "a" * 64, 600)
        self.attempts = 0
        monkeypatch.setattr(redial, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep))
        monkeypatch.setattr(redial, "_spread", lambda pause: pause)
        self.redial = Redial(cast(Controller, self), "c", "_", self.grant, 60.0)

    def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def resume_session(self, container: str, user: str, resume: str, connecting: float, answering: float) -> Any:
        self.attempts += 1
        if self.fails:
            raise self.fails.pop(0)
        return SimpleNamespace(resume=self.grant.answer(self.attempts, self.have))

    def resume(self, received: int = 0) -> list[float]:
        """Go on, and return the pauses that were made."""
        self.pauses.clear()
        self.redial.resume(received, CUT)
        return list(self.pauses)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(monkeypatch)


def test_growing_pauses(site: Site) -> None:
    """The first attempt is made at once, and the pauses double up to the longest."""
    site.fails = [Unavailable("down")] * 8
    assert site.resume() == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


def test_connections_that_bring_nothing(site: Site) -> None:
    """Where each connection is accepted and lost again, nobody is asked a hundred times in a second."""
    assert site.resume() == []
    assert [site.resume() for _ in range(7)] == [[], [0.2], [0.4], [0.8], [1.6], [3.2], [LONGEST_PAUSE]]
    assert site.resume(received=1) == [LONGEST_PAUSE]
    assert site.resume(received=1) == []  # the last one had brought something
    site.have = 10
    assert site.resume(received=1) == [FIRST_PAUSE]
    assert site.resume(received=1) == []


def test_a_connection_that_lasted(site: Site) -> None:
    """After a time of rest it is dialled at once, though nothing was said."""
    for _ in range(4):
        site.resume()
    site.now += LONGEST_PAUSE
    assert site.resume() == []


def test_the_end_of_patience(site: Site) -> None:
    """The sentence has the last reason; who is told that it is over does not try again."""
    site.fails = [Unavailable("the controller is down")] * 100
    with pytest.raises(BadGateway, match=r"no connection for 60 s \(--resume-for\): the controller is down"):
        site.resume()
    site.fails = [SessionOver("an administrator ended it")]
    before = site.attempts
    with pytest.raises(BadGateway, match="can not go on: an administrator ended it"):
        site.resume()
    assert site.attempts == before + 1
