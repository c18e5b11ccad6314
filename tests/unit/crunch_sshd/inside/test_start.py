"""Starting a process of our own: what it is given, and what it is not."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.errors import Unavailable
from crunch_sshd.inside import start
from tests.timing import DEADLINE

CHILD = """
import os, sys
from crunch_sshd.inside import enter

def main():
    job = enter.load(sys.argv[1])
    enter.wait_until_joined(job)
    print(job["words"], sys.argv[2:], sorted(os.environ))
    print([os.get_inheritable(one) for one in job["descriptors"]], {"site", "json"} & set(sys.modules))
    os.write(job["descriptors"][0], b"open")
    return 3
"""


def test_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the job, its descriptors, its arguments and three variables; no site, and nothing of the gateway's."""
    (tmp_path / "child.py").write_text(CHILD, encoding="utf-8")
    (tmp_path / "crunch_sshd").symlink_to(Path(start.PACKAGES) / "crunch_sshd")
    (tmp_path / "arv_ssh").symlink_to(Path(start.PACKAGES) / "arv_ssh")
    monkeypatch.setattr(start, "PACKAGES", str(tmp_path))
    monkeypatch.setenv("SECRET", "of the gateway")
    reader, writer = os.pipe()
    try:
        child = start.start("child", {"words": ["a"], "descriptors": [writer]}, ["b"], stdout=subprocess.PIPE)
        os.close(writer)
        output, _ = child.communicate(timeout=DEADLINE)
        assert output.decode().splitlines() == ["['a'] ['b'] ['LC_ALL', 'PATH', 'TZ']", "[False] set()"]
        assert (child.returncode, os.read(reader, 10)) == (3, b"open")
    finally:
        os.close(reader)


def test_joining(tmp_path: Path) -> None:
    """It is put into each control group, by its pid, before it goes on."""
    group = tmp_path / "cgroup.procs"
    descriptor = os.open(group, os.O_WRONLY | os.O_CREAT)
    try:
        child = start.start("crunch_sshd.inside.sftp.__main__", {"descriptors": []}, control_groups=[descriptor],
                            stderr=subprocess.DEVNULL)  # fmt: skip
        child.wait(DEADLINE)
        assert group.read_text() == str(child.pid)
    finally:
        os.close(descriptor)


def test_a_group_that_cannot_be_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        start.start("crunch_sshd.inside.sftp.__main__", {"descriptors": []}, control_groups=[descriptor])
    os.close(descriptor)
    assert started[0].returncode == -signal.SIGKILL and os.listdir("/proc/self/fd") == before


def test_nothing_left_open() -> None:
    """The job's own descriptor is closed again, also when there is no such program."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="No such file"):
        start.start("child", {"descriptors": []}, executable="/nonexistent/python")
    assert os.listdir("/proc/self/fd") == before
