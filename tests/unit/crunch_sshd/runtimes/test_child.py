"""A child held by a pidfd: its end, by whatever comes, and what is left of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from crunch_sshd.inside.starter import starter
from crunch_sshd.runtimes import child
from crunch_sshd.runtimes.child import SIGNALLED, Child
from tests.children import piped
from tests.timing import DEADLINE, wait_for

SLEEP = "import time; time.sleep(1000)"


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Every descriptor is closed again."""
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The signals that the starter heard of."""
    found: list[int] = []
    monkeypatch.setattr(starter, "ended", found.append)
    return found


def test_status(told: list[int]) -> None:
    """It has the exit status that it chose, which is nothing that the starter would hear of."""
    one = piped("raise SystemExit(5)")
    assert one.wait(DEADLINE) == 5
    one.close()
    assert told == []


def test_killed(told: list[int]) -> None:
    """Killing it twice does no harm; the starter hears of it."""
    one = piped(SLEEP)
    one.kill()
    os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
    one.kill()
    assert one.wait(DEADLINE) == SIGNALLED + signal.SIGKILL
    one.close()
    assert told == [signal.SIGKILL]


def test_time_out() -> None:
    """Who waits only so long can wait again."""
    one = piped(SLEEP)
    with pytest.raises(TimeoutError):
        one.wait(0.001)
    one.end()
    assert not os.path.exists(f"/proc/{one.pid}")


def test_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that cannot be held is ended at once."""

    def no_room(pid: int) -> int:
        raise OSError(24, "Too many open files")

    pid = os.fork()
    if pid == 0:
        signal.pause()
    monkeypatch.setattr(os, "pidfd_open", no_room)
    with pytest.raises(OSError, match="Too many open files"):
        Child(pid)
    assert not os.path.exists(f"/proc/{pid}")


def test_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not end at once, as in a frozen container, is waited for by a thread, and leaves no zombie."""
    monkeypatch.setattr(child, "END_TIMEOUT", 0)
    monkeypatch.setattr(Child, "kill", lambda self: None)
    one = piped(SLEEP)
    one.end()
    os.kill(one.pid, signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{one.pid}"), "its end")
