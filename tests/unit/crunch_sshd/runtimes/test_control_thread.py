"""The Docker runtime's calls in the background. (All else: tests/conformance.)"""

from __future__ import annotations

import threading
from typing import NoReturn

import pytest

from arv_ssh.errors import Unavailable
from crunch_sshd.runtimes.control_thread import MAX_CONTROLS, ControlThread
from crunch_sshd.ssh import threads
from tests.timing import DEADLINE, wait_for


def test_little_waits_for_a_slow_engine() -> None:
    """Of a thousand resizes the newest is made, of a thousand signals no more than the limit."""
    controls, made, begun, go = ControlThread(), [], threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go.wait(DEADLINE)

    controls.put(slow)
    assert begun.wait(DEADLINE)
    for number in range(1000):
        controls.put_newest(lambda number=number: made.append(("resize", number)))  # type: ignore[misc]
        controls.put(lambda number=number: made.append(("signal", number)))  # type: ignore[misc]
    thread = controls._thread
    go.set()
    assert thread is not None
    thread.join(DEADLINE)
    assert made == [*(("signal", number) for number in range(MAX_CONTROLS)), ("resize", 999)]


def test_nothing_after_the_end() -> None:
    """Closed, it makes none that waited and none that comes."""
    controls, made = ControlThread(), []
    controls.close()
    controls.put(lambda: made.append(1))
    controls.put_newest(lambda: made.append(2))
    assert made == [] and controls._thread is None


def test_a_call_that_fails() -> None:
    """An engine that is away for one call gets the next one all the same."""
    controls, made = ControlThread(), []

    def fail() -> NoReturn:
        raise Unavailable("the engine is away")

    controls.put(fail)
    controls.put(lambda: made.append(1))
    wait_for(lambda: made == [1], "the call after the one that failed")


def test_no_room_for_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that comes while no thread can start is made with the next one."""
    controls, made = ControlThread(), []

    def full(*_: object) -> NoReturn:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(threads, "start", full)
        controls.put(lambda: made.append(1))
    controls.put(lambda: made.append(2))
    wait_for(lambda: made == [1, 2], "both calls")
