"""Starting a process of our own: what it is given, and what it is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.errors import Unavailable
from crunch_sshd.inside import start

CHILD = """
import os, sys
from crunch_sshd.inside import enter

def main(job):
    enter.wait_until_joined(job)
    print(job["words"], sorted(os.environ))
    print([os.get_inheritable(one) for one in job["descriptors"][1:]], {"site", "json"} & set(sys.modules))
    os.write(job["report"], b"open")
    print(os.getsid(0) == os.getpid())
    return 3
"""
NOTHING: dict[str, Any] = {"namespaces": {}}


@pytest.fixture
def null() -> Iterator[int]:
    """/dev/null."""
    with open(os.devnull, "r+b") as file:
        yield file.fileno()


def ended(pid: int) -> int:
    """Return the exit status of a child, or its signal as a negative number."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, null: int) -> None:
    """It has the job, its descriptors, a session and three variables; no site, and nothing of the gateway's."""
    (tmp_path / "child.py").write_text(CHILD, encoding="utf-8")
    (tmp_path / "crunch_sshd").symlink_to(Path(start.PACKAGES) / "crunch_sshd")
    (tmp_path / "arv_ssh").symlink_to(Path(start.PACKAGES) / "arv_ssh")
    monkeypatch.setattr(start, "PACKAGES", str(tmp_path))
    monkeypatch.setenv("SECRET", "of the gateway")
    reader, writer = os.pipe()
    with open(reader, "rb") as report, open(tmp_path / "output", "w+") as output:
        streams = [null, output.fileno(), output.fileno()]
        pid = start.start("child", {"words": ["a"], "report": writer}, [writer], streams, [])
        os.close(writer)
        assert (report.read(), ended(pid)) == (b"open", 3)
        output.seek(0)
        assert output.read().splitlines() == ["['a'] ['LC_ALL', 'PATH', 'TZ']", "[False] set()", "True"]


def test_nothing_else_waits_for_it(null: int) -> None:
    """Popen, which waits by pid for whatever it has let go of, leaves this child alone: its pid stays its own."""
    pid = start.start("crunch_sshd.inside.sftp.__main__", NOTHING, [], [null] * 3, [])
    assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    subprocess._cleanup()  # type: ignore[attr-defined] # what each start of another child does
    assert os.path.exists(f"/proc/{pid}")
    assert ended(pid) == 1


def test_joining(tmp_path: Path, null: int) -> None:
    """It is put into each control group, by its pid, before it goes on."""
    group = tmp_path / "cgroup.procs"
    descriptor = os.open(group, os.O_WRONLY | os.O_CREAT)
    try:
        pid = start.start("crunch_sshd.inside.sftp.__main__", NOTHING, [], [null] * 3, [descriptor])
        ended(pid)
        assert group.read_text() == str(pid)
    finally:
        os.close(descriptor)


def test_a_group_that_cannot_be_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, null: int) -> None:
    """The process is ended and reaped, the error says why, and nothing is left open."""
    before = os.listdir("/proc/self/fd")
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def recorded(*words: Any, **more: Any) -> subprocess.Popen[bytes]:
        started.append(real(*words, **more))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", recorded)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(Unavailable, match="control group cannot be joined: Bad file descriptor"):
        start.start("crunch_sshd.inside.sftp.__main__", NOTHING, [], [null] * 3, [descriptor])
    os.close(descriptor)
    assert started[0].returncode == -signal.SIGKILL and os.listdir("/proc/self/fd") == before


def test_nothing_left_open(monkeypatch: pytest.MonkeyPatch, null: int) -> None:
    """The job's own descriptor is closed again, also when there is no such program."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="No such file"):
        start.start("child", NOTHING, [], [null] * 3, [])
    assert os.listdir("/proc/self/fd") == before
