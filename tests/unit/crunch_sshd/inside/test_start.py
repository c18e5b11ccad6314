"""Starting a process of our own: what it is given, and what it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crunch_sshd.inside import start

CHILD = """
import os, sys
from crunch_sshd.inside import enter

def main(job):
    enter.join(job)
    print(job["words"], sorted(os.environ))
    print([os.get_inheritable(one) for one in enter.handles(job)[:1]], {"site", "json"} & set(sys.modules))
    os.write(job["report"], b"open")
    print(os.getsid(0) == os.getpid())
    return 3
"""
NOTHING: dict[str, Any] = {}


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
        pid = start.start("child", {"words": ["a"], "report": writer, "doors": [], "unified": None}, streams)
        os.close(writer)
        assert (report.read(), ended(pid)) == (b"open", 3)
        output.seek(0)
        assert output.read().splitlines() == ["['a'] ['LC_ALL', 'PATH', 'TZ']", "[False] set()", "True"]


def test_nothing_else_waits_for_it(null: int) -> None:
    """Popen, which waits by pid for whatever it has let go of, leaves this child alone: its pid stays its own."""
    pid = start.start("crunch_sshd.inside.sftp.__main__", NOTHING, [null] * 3)
    assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    subprocess._cleanup()  # type: ignore[attr-defined] # what each start of another child does
    assert os.path.exists(f"/proc/{pid}")
    assert ended(pid) == 1


def test_joining(tmp_path: Path, null: int) -> None:
    """It puts itself into each control group before anything else, by each version's file."""
    door, unified = os.open(tmp_path / "tasks", os.O_WRONLY | os.O_CREAT), os.open(tmp_path, os.O_RDONLY)
    (tmp_path / "cgroup.procs").touch()
    job = {"arguments": ["/", ""], "doors": [door], "unified": unified}
    pid = start.start("crunch_sshd.inside.sftp.__main__", job, [null] * 3)
    for descriptor in (door, unified):
        os.close(descriptor)
    assert ended(pid) != 0  # the job says nothing of what to enter
    assert [(tmp_path / name).read_text() for name in ("tasks", "cgroup.procs")] == ["0", "0"]


def test_a_group_that_cannot_be_joined(tmp_path: Path, null: int) -> None:
    """The process ends, and says why."""
    group = os.open(tmp_path, os.O_RDONLY)
    with open(tmp_path / "said", "w+") as said:
        job = {"arguments": ["/", ""], "doors": [group], "unified": None}
        pid = start.start("crunch_sshd.inside.sftp.__main__", job, [null, null, said.fileno()])
        os.close(group)
        assert ended(pid) != 0
        said.seek(0)
        assert "the container's control group cannot be joined: Bad file descriptor" in said.read()


def test_nothing_left_open(monkeypatch: pytest.MonkeyPatch, null: int) -> None:
    """The job's own descriptor is closed again, also when there is no such program."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="No such file"):
        start.start("child", NOTHING, [null] * 3)
    assert os.listdir("/proc/self/fd") == before
