"""How long a failed container is kept up, and what its record says meanwhile and then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from arv_ssh.errors import NotFound, Unavailable
from crunch_sshd.run import hold as hold_module
from crunch_sshd.run.container_record import ContainerRecord
from crunch_sshd.run.events import Events
from crunch_sshd.run.hold import Hold
from tests.timing import DEADLINE

UUID = "zzzzz-dz642-abcdeabcdeabcde"
LONG = 10 * DEADLINE


class Record:
    """A container's record, with what it said after each update; ``away`` is an API that does not answer."""

    def __init__(self, **status: str) -> None:
        self.record: dict[str, Any] = {"runtime_status": status}
        self.updates: list[dict[str, Any]] = []
        self.away = False

    def get(self) -> dict[str, Any]:
        if self.away:
            raise NotFound("no such container")
        return dict(self.record)

    def update(self, attributes: dict[str, Any]) -> None:
        if self.away:
            raise Unavailable("away")
        self.updates.append(attributes)


class Stop:
    """In place of a container's first process: one that failed with 3, or ``failure``."""

    def __init__(self) -> None:
        self.status: int | None = 3
        self.failure = ""
        self.begun = self.released = False

    def start(self) -> None:
        self.begun = True

    def release(self) -> None:
        self.released = True


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Hold, Record, Events, Stop]]:
    """Make a hold of a process that has failed."""

    def hold(asked: float, longest: float, **status: str) -> tuple[Hold, Record, Events, Stop]:
        record, events, stop = Record(**status), Events(), Stop()
        monkeypatch.setattr(hold_module, "ExitStop", lambda find, stopped: stop)
        return Hold(asked, longest, lambda: "an id", cast(ContainerRecord, record), events), record, events, stop

    return hold


Make = Callable[..., tuple[Hold, Record, Events, Stop]]


def never() -> bool:
    return False


def test_its_record(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The record has the exit code, the failure and how to enter; in the end it has what stood there before."""
    hold, record, _, stop = make(0.01, LONG, warning="slow")
    hold.keep(UUID, never)
    (update,) = record.updates
    assert update["exit_code"] == 3
    assert update["runtime_status"].pop("activity").startswith("kept up until 2")
    assert update["runtime_status"] == {"warning": "slow", "error": "the program failed (exit 3)"}
    assert stop.released and hold.ending(3) == {"runtime_status": {"warning": "slow"}}


def test_the_programs_own_error(make: Make) -> None:
    """A program that has said on its record what failed knows better."""
    hold, record, *_ = make(0.01, LONG, error="step 2 failed")
    hold.keep(UUID, never)
    assert record.updates[0]["runtime_status"]["error"] == "step 2 failed"


def test_the_sites_limit(make: Make) -> None:
    """Neither a request nor a session keeps a container up for longer than the site allows."""
    hold, *_ = make(LONG, 0.01)
    hold.keep(UUID, never)
    hold, *_ = make(0.01, 0.02)
    hold.sessions(1)
    hold.keep(UUID, never)


@pytest.mark.parametrize("cause", ["the last session leaves", "the container ends", "a signal"])
def test_its_end(make: Make, cause: str) -> None:
    """A session prolongs a hold until it leaves; the container's end and signals end it at once, and only it."""
    hold, _, events, stop = make(0.01, LONG)
    ended = threading.Event()
    hold.sessions(2)

    def happen() -> None:
        if cause == "the last session leaves":
            hold.sessions(1)
            hold.sessions(0)
        elif cause == "the container ends":
            ended.set()
        else:
            events.signalled = "SIGTERM"
        events.notify()

    timer = threading.Timer(0.1, happen)
    timer.start()
    hold.keep(UUID, ended.is_set)
    assert stop.released and not events.signalled
    timer.join()


def test_the_api_is_away(make: Make) -> None:
    """A container is kept up although its record cannot say so."""
    hold, record, _, stop = make(0.01, LONG)
    record.away = True
    hold.keep(UUID, never)
    assert stop.released and hold.ending(3) == {}


def test_none(make: Make) -> None:
    """Where nobody asks for it, or the site does not allow it, nothing is watched and the record says nothing."""
    for asked, longest in ((0.0, LONG), (LONG, 0.0)):
        hold, _, _, stop = make(asked, longest)
        hold.prepare()
        stop.failure = "this is not looked at"
        assert not stop.begun and hold.ending(3) == {}


def test_it_could_not_be(make: Make) -> None:
    """The record of a container that should have been kept up, and could not, says why; a success needs no reason."""
    hold, _, _, stop = make(60, LONG)
    hold.prepare()
    assert stop.begun
    stop.status, stop.failure = None, "its program ended before it could be watched"
    warning = "the program failed, and its container could not be kept up (hold_on_failure): its program ended before"
    assert hold.ending(0) == {}
    assert hold.ending(3)["runtime_status"]["warning"].startswith(warning)
