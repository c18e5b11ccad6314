"""A container's first process, looked at from outside: nothing stays open where this host has no room."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from crunch_sshd.runtimes.host_container import HostContainer
from tests.timing import wait_for

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can make namespaces")
KINDS = ("ipc", "uts", "net")


@pytest.fixture
def first() -> Iterator[int]:
    """A process in namespaces of its own."""
    with subprocess.Popen(["unshare", "--ipc", "--uts", "--net", "sleep", "1000000"]) as process:
        ours = os.stat("/proc/self/ns/net").st_ino
        wait_for(lambda: os.stat(f"/proc/{process.pid}/ns/net").st_ino != ours, "the namespaces")
        yield process.pid
        process.kill()


@pytest.mark.parametrize("missing", ["ns/uts", "root"])
def test_no_room(first: int, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """What was opened before the shortage is closed: else each attempt would make it worse."""
    real = os.open

    def opened(path: Any, *arguments: Any, **how: Any) -> int:
        if path == missing:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *arguments, **how)

    before = os.listdir("/proc/self/fd")
    container = HostContainer(first)
    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(OSError, match="Too many open files"):
        container.open_namespaces(KINDS) if missing == "ns/uts" else HostContainer(first)
    monkeypatch.undo()
    container.close()
    assert os.listdir("/proc/self/fd") == before
