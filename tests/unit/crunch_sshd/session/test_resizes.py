"""Which of many sizes of a terminal a program gets to see."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from crunch_sshd.runtimes import Terminal
from crunch_sshd.session.resizes import Resizes


class Timer:
    """A timer that the test lets go off."""

    set: list[Timer] = []

    def __init__(self, pause: float, work: Callable[[], None]) -> None:
        self.work = work

    def start(self) -> None:
        Timer.set.append(self)


def size(columns: int) -> Terminal:
    return Terminal("xterm", columns, 24)


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[Timer]:
    """The timers that are set."""
    monkeypatch.setattr(threading, "Timer", Timer)
    Timer.set = []
    return Timer.set


def test_the_newest_counts(timers: list[Timer]) -> None:
    """The first size is passed on at once; of those right behind it only the last, when its time has come."""
    seen: list[Terminal] = []
    resizes = Resizes(seen.append)
    for columns in range(100, 1100):
        resizes.put(size(columns))
    assert seen == [size(100)]
    (timer,) = timers
    timer.work()
    assert seen == [size(100), size(1099)]
    resizes.put(size(7))
    assert len(timers) == 2, "the next one waits for its turn again"


def test_without_room_for_a_thread(monkeypatch: pytest.MonkeyPatch, timers: list[Timer]) -> None:
    """Where no thread can be started each size is passed on at once."""

    def fail(timer: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Timer, "start", fail)
    seen: list[Terminal] = []
    resizes = Resizes(seen.append)
    for columns in (1, 2, 3):
        resizes.put(size(columns))
    assert seen == [size(1), size(2), size(3)]
