"""A child of the gateway's own: it is waited for in one place only, and its user reads why it ended."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

import pytest

from crunch_sshd.inside.starter import starter
from crunch_sshd.runtimes import Output, child_process
from crunch_sshd.runtimes.child_process import ChildProcess
from tests.children import piped
from tests.reading import read
from tests.timing import wait_for


def started(script: str) -> ChildProcess:
    return ChildProcess(piped(script), "the server")


def heard(process: ChildProcess) -> bytes:
    found = b""
    while (output := read(process)) is not None:
        assert output[0] is Output.STDERR
        found += output[1]
    return found


@pytest.mark.parametrize(("number", "why"), [
    (signal.SIGKILL, b"has the container ended, or did it run out of memory?"),
    (signal.SIGSYS, b"the container's seccomp profile forbids what it needs"),
    (signal.SIGSEGV, b"connect again"),
])  # fmt: skip
def test_killed(number: signal.Signals, why: bytes) -> None:
    """A child that something else kills leaves a sentence for its user, once."""
    process = started(f"import os; os.kill(os.getpid(), {number:d})")
    assert heard(process) == b"arv-ssh: the server was ended by " + number.name.encode() + b"; " + why + b"\n"
    assert process.wait() == 128 + number
    assert process.death_signal() == ("SEGV" if number == signal.SIGSEGV else process.death_signal())
    process.close()


def test_no_sentence_for_its_own_end() -> None:
    """A child that exits, or that the session itself ends, leaves none."""
    process = started("raise SystemExit(3)")
    assert (heard(process), process.wait()) == (b"", 3)
    process.close()
    process = started("import time; time.sleep(1000)")
    process.hang_up()
    assert (heard(process), process.wait(), process.death_signal()) == (b"", 129, "HUP")
    process.close()


@pytest.mark.parametrize(("where", "name"), [(child_process, "widen"), (os, "pipe"), (os, "pidfd_open")])
def test_no_room(monkeypatch: pytest.MonkeyPatch, where: Any, name: str) -> None:
    """A child that cannot be held is ended, and leaves neither a process nor a descriptor."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = os.listdir("/proc/self/fd")
    child = piped("import time; time.sleep(1000)")
    monkeypatch.setattr(where, name, refuse)
    with pytest.raises(OSError, match="Too many open files"):
        ChildProcess(child)
    assert os.listdir("/proc/self/fd") == before
    wait_for(lambda: not os.path.exists(f"/proc/{child.pid}"), "the child's end")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGHUP])
def test_its_end_is_told(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The starter hears what ended it, to begin anew after a crash."""
    told: list[int] = []
    monkeypatch.setattr(starter, "ended", told.append)
    process = started(f"import os; os.kill(os.getpid(), {number:d})")
    process.wait()
    process.close()
    assert told == [number]
