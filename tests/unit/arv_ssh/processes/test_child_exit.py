"""The end of a child process: its status, its time, and that none is left."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from arv_ssh.processes.child_exit import exit_status
from tests.timing import DEADLINE, SECOND

LONG = [sys.executable, "-c", "import sys; sys.stdin.read()"]


def test_status() -> None:
    """A child's exit status is returned, also that of one that has ended already, and the number of its signal."""
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert exit_status(child, DEADLINE) == 7
    with subprocess.Popen(LONG, stdin=subprocess.PIPE) as child:
        child.terminate()
        assert exit_status(child, DEADLINE) == -15


def test_too_long() -> None:
    """A child that does not end in time is ended."""
    with subprocess.Popen(LONG, stdin=subprocess.PIPE) as child:
        with pytest.raises(subprocess.TimeoutExpired):
            exit_status(child, 0.1 * SECOND)
        assert child.returncode == -9


def test_not_to_be_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that cannot be watched, for want of a descriptor, is not left behind."""

    def fail(pid: int) -> int:
        raise OSError("too many open files")

    monkeypatch.setattr(os, "pidfd_open", fail)
    with subprocess.Popen(LONG, stdin=subprocess.PIPE) as child:
        with pytest.raises(OSError, match="too many open files"):
            exit_status(child, DEADLINE)
        assert child.returncode == -9
