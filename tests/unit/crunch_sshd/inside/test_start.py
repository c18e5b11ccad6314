"""Starting a process of our own: what it is given, and what it is not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from crunch_sshd.inside import start
from tests.timing import DEADLINE

CHILD = """
import os, sys
from crunch_sshd.inside import enter

def main():
    job = enter.load(sys.argv[1])
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


def test_nothing_left_open() -> None:
    """The job's own descriptor is closed again, also when there is no such program."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="No such file"):
        start.start("child", {"descriptors": []}, executable="/nonexistent/python")
    assert os.listdir("/proc/self/fd") == before
