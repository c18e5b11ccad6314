"""Which of many sizes of a terminal a program gets to see."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
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


def test_a_nudge(timers: list[Timer]) -> None:
    """A program that is to draw its screen anew sees another size for a moment, and then its own again."""
    seen: list[Terminal] = []
    resizes = Resizes(seen.append)
    resizes.nudge(None)
    resizes.nudge(size(80))
    while timers:
        timers.pop(0).work()
    assert seen == [replace(size(80), rows=25), size(80)]


def test_a_size_that_comes_amid_a_nudge(timers: list[Timer]) -> None:
    """A window that was resized while there was no connection has its new size, whatever the nudge began with."""
    seen: list[Terminal] = []
    resizes = Resizes(seen.append)
    resizes.nudge(size(80))
    resizes.put(size(100))
    while timers:
        timers.pop(0).work()
    assert seen[-1] == size(100)
    resizes.nudge(size(80))  # which is how the session began
    while timers:
        timers.pop(0).work()
    assert seen[-1] == size(100)
