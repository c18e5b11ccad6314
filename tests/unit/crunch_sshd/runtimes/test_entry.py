"""A process started in a container never outlives it. (What it is held to: tests/conformance.)"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from crunch_sshd.runtimes import entry
from crunch_sshd.runtimes.child import SIGNALLED
from tests.children import piped
from tests.timing import DEADLINE, wait_for

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(1000)"]


def test_it_ends_with_its_container() -> None:
    """The end of the container's first process kills it, and no descriptor is left of the watch."""
    before = os.listdir("/proc/self/fd")
    with subprocess.Popen(SLEEP) as first:
        child = piped(SLEEP[-1])
        entry._end_with(os.pidfd_open(first.pid), child)
        first.kill()
        assert child.wait(DEADLINE) == SIGNALLED + signal.SIGKILL
    child.close()
    wait_for(lambda: os.listdir("/proc/self/fd") == before, "the watch's end")


def test_what_cannot_be_watched_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room for the thread that watches, the process is ended at once."""

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    before = os.listdir("/proc/self/fd")
    child = piped(SLEEP[-1])
    with pytest.raises(OSError, match=os.strerror(errno.EAGAIN)):
        entry._end_with(os.pidfd_open(os.getpid()), child)
    assert not os.path.exists(f"/proc/{child.pid}")
    assert os.listdir("/proc/self/fd") == before
