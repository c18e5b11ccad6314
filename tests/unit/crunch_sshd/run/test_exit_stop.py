"""Processes that are stopped on their way out, each the first of a pid namespace as a container's is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crunch_sshd.run.exit_stop import ExitStop
from crunch_sshd.runtimes import host_processes
from tests.timing import DEADLINE, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="making pid namespaces and tracing in them needs root")

WAIT = "import os, signal, sys; sys.stdin.read(1); "
CRASH = "import ctypes; ctypes.string_at(0)"


class First:
    """A Python program as the first process of a pid namespace; it begins once it is told, and then is traced."""

    def __init__(self, program: str) -> None:
        command = ["unshare", "--pid", "--fork", sys.executable, "-S", "-c", WAIT + program]
        self._unshare = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.pid = wait_for(self._find)
        self._stands = threading.Event()
        self.stop = ExitStop(lambda: self.pid, self._stands.set)
        self.stop.started()
        self.stop.start()
        wait_for(lambda: self.field("TracerPid") != "0", "the tracer")

    def _find(self) -> int | None:
        child = (one.pid for one in host_processes.processes() if one.parent == self._unshare.pid)
        return next((pid for pid in child if b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()), None)

    def field(self, name: str) -> str:
        """Return a field of its status in /proc."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))

    def go(self) -> None:
        """Let the program begin."""
        assert self._unshare.stdin is not None
        self._unshare.stdin.close()

    def stands(self) -> int | None:
        """Wait until it is stopped at its exit; return its status."""
        assert self._stands.wait(DEADLINE)
        return self.stop.status

    def ends(self) -> int:
        """Wait until it has ended; return its exit status as a shell would give it (unshare(1) dies of its signal)."""
        status = self._unshare.wait(DEADLINE)
        return status if status >= 0 else 128 - status

    def kill(self) -> None:
        """Let it go and end it."""
        self.stop.release()
        with self._unshare:
            self._unshare.kill()


@pytest.fixture
def first() -> Iterator[Callable[[str], First]]:
    """Start a program as a first process; whatever became of it, it ends with the test."""
    made: list[First] = []

    def start(program: str) -> First:
        made.append(First(program))
        return made[-1]

    yield start
    for one in made:
        one.kill()


def test_a_failure(first: Callable[[str], First]) -> None:
    """A process that fails stands there with its files until it is let go, and then has the exit status it had."""
    one = first("os.open('/dev/full', os.O_WRONLY); sys.exit(3)")
    one.go()
    assert one.stands() == 3
    assert one.field("State") == "t"
    assert "/dev/full" in [os.readlink(f"/proc/{one.pid}/fd/{name}") for name in os.listdir(f"/proc/{one.pid}/fd")]
    one.stop.release()
    assert one.ends() == 3


def test_success(first: Callable[[str], First]) -> None:
    """A process that succeeds is not held up."""
    one = first("sys.exit(0)")
    one.go()
    assert one.ends() == 0 and one.stop.status is None


def test_killed(first: Callable[[str], First]) -> None:
    """A process that the kernel kills, as for want of memory, stands there too."""
    one = first("signal.pause()")
    os.kill(one.pid, signal.SIGKILL)
    assert one.stands() == 137
    one.stop.release()
    assert one.ends()  # unshare(1) cannot end itself by this signal


def test_signals_pass(first: Callable[[str], First]) -> None:
    """Handlers run as without a tracer, also one for a fault; and SIGSTOP stops until SIGCONT."""
    handled = "signal.signal(signal.SIGUSR1, lambda *_: None); signal.signal(signal.SIGSEGV, lambda *_: sys.exit(4)); "
    one = first(handled + "signal.pause(); os.kill(1, signal.SIGSEGV)")
    one.go()
    wait_for(lambda: int(one.field("SigCgt"), 16) >> (signal.SIGUSR1 - 1) & 1, "the handler")
    os.kill(one.pid, signal.SIGSTOP)
    wait_for(lambda: one.field("State") in "tT", "SIGSTOP")
    os.kill(one.pid, signal.SIGCONT)
    wait_for(lambda: one.field("State") == "S", "SIGCONT")
    os.kill(one.pid, signal.SIGUSR1)
    assert one.stands() == 4


def test_a_crash(first: Callable[[str], First]) -> None:
    """A first process that crashes ends as without a tracer, instead of repeating the fault for ever."""
    one = first(CRASH)
    one.go()
    assert one.ends() == 139
    assert one.stop.status is None and one.stop.failure.endswith("crashed (SIGSEGV)")


def test_released_before(first: Callable[[str], First]) -> None:
    """A process that was let go before it failed is not held up."""
    one = first("sys.exit(3)")
    one.stop.release()
    one.go()
    assert one.ends() == 3 and one.stop.status is None


def test_too_late() -> None:
    """A process that is not there any more once it was started is not looked for for ever, and the reason is told."""
    stop = ExitStop(lambda: None, lambda: None)
    stop.started()
    stop.start()
    assert wait_for(lambda: stop.failure) == "its first process was not found in time on crunch-run's host"


def test_not_allowed() -> None:
    """A process that may not be traced, as this one's own, is left alone, and the reason is told."""
    stop = ExitStop(os.getpid, lambda: None)
    stop.start()
    assert "its program could not be watched: Operation not permitted" in wait_for(lambda: stop.failure)
