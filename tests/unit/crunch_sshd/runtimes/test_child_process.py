"""A child of the gateway's own: it is waited for in one place only, and its user reads why it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from crunch_sshd.runtimes import Output
from crunch_sshd.runtimes.child_process import PIPES, ChildProcess


def started(script: str) -> tuple[ChildProcess, subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", script], **PIPES)
    return ChildProcess(child, "the server"), child


def heard(process: ChildProcess) -> bytes:
    found = b""
    while (output := process.read()) is not None:
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
    process, _ = started(f"import os; os.kill(os.getpid(), {number:d})")
    assert heard(process) == b"arv-ssh: the server was ended by " + number.name.encode() + b"; " + why + b"\n"
    assert process.wait() == 128 + number
    assert process.death_signal() == ("SEGV" if number == signal.SIGSEGV else process.death_signal())
    process.close()


def test_no_sentence_for_its_own_end() -> None:
    """A child that exits, or that the session itself ends, leaves none."""
    process, _ = started("raise SystemExit(3)")
    assert (heard(process), process.wait()) == (b"", 3)
    process.close()
    process, _ = started("import time; time.sleep(1000)")
    process.hang_up()
    assert (heard(process), process.wait(), process.death_signal()) == (b"", 129, "HUP")
    process.close()


def test_nothing_else_waits_for_it() -> None:
    """Popen, which waits by pid for whatever it has let go of, leaves this child alone: its pid stays its own."""
    process, child = started("raise SystemExit(5)")
    assert os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    pid = child.pid
    assert child.poll() is not None
    del child
    subprocess._cleanup()  # type: ignore[attr-defined] # what each start of another child does
    assert os.path.exists(f"/proc/{pid}")
    assert process.wait() == 5
    assert not os.path.exists(f"/proc/{pid}")
    process.close()
