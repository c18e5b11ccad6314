"""What is opened inside a container, and what is not: everything but block devices, and of configuration files only."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from crunch_sshd.inside import files


def block_device(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Have ``call`` of os say that what it looks at is a block device."""
    facts = os.stat_result((stat.S_IFBLK | 0o660, *[0] * 9))
    monkeypatch.setattr(os, call, lambda *_: facts)


@pytest.mark.parametrize("look", ["stat", "fstat"])
def test_block_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: str) -> None:
    """A block device is refused by its name; one put there after the first look, by its descriptor, which is closed."""
    path = os.fsencode(tmp_path / "file")
    Path(os.fsdecode(path)).write_bytes(b"x")
    before = len(os.listdir("/proc/self/fd"))
    block_device(monkeypatch, look)
    with pytest.raises(PermissionError) as caught:
        files.open_file(path, os.O_RDONLY)
    assert (caught.value.errno, caught.value.strerror) == (errno.EPERM, "Block devices are not opened")
    monkeypatch.undo()
    assert len(os.listdir("/proc/self/fd")) == before


def test_new_file(tmp_path: Path) -> None:
    """A file that is not there yet is made, with the mode that was asked for."""
    path = os.fsencode(tmp_path / "new")
    os.close(files.open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(FileNotFoundError):
        files.open_file(os.fsencode(tmp_path / "none"), os.O_RDONLY)


def test_configuration(tmp_path: Path) -> None:
    """A regular file is read, at most 1 MiB of it; what is no file, or not there, is nothing and never waits."""
    (tmp_path / "file").write_bytes(b"x" * (files.LIMIT + 1))
    assert files.read(tmp_path / "file") == b"x" * files.LIMIT  # type: ignore[arg-type]
    os.mkfifo(tmp_path / "pipe")
    os.symlink("loop", tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        for name in ("pipe", "socket", "loop", "none", "file/none", "x" * 300, "a\0b", "."):
            assert files.read(str(tmp_path / name)) == b""
    assert files.read("/dev/zero") == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="nobody else may open the kernel's log")
def test_kernels_files() -> None:
    """What the kernel makes up is nothing: reading it can fail, or take from the host."""
    for name in ("/proc/self/mem", "/proc/kmsg", "/proc/self/status"):
        assert files.read(name) == b""
