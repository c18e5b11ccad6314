"""Opening files from inside a container: never a block device, and of its own configuration regular files only.

Owns the checks before and after opening. Whatever opening can do, the container's control group of devices allows the
container's own processes to do too; this wall stands in front of that one.
"""

from __future__ import annotations

import errno
import os
from stat import S_ISBLK, S_ISREG

LIMIT = 1024 * 1024
"""Bytes read of a configuration file."""


def open_file(path: bytes, flags: int, mode: int = 0o666) -> int:
    """Return a descriptor as open(2) does; raise PermissionError (EPERM) for a block device.

    The file is checked before, since merely opening some devices has an effect, and after, when it cannot be replaced.
    """
    try:
        is_block_device = S_ISBLK(os.stat(path).st_mode)
    except OSError:
        is_block_device = False  # missing, or may not be looked at: open(2) says so
    if is_block_device:
        raise _refusal(path)
    descriptor = os.open(path, flags, mode)
    try:
        if S_ISBLK(os.fstat(descriptor).st_mode):
            raise _refusal(path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _refusal(path: bytes) -> PermissionError:
    return PermissionError(errno.EPERM, "Block devices are not opened", path)


def write(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data``; if the kernel takes only a part, writing the rest fails with the reason."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data = data[written:]
        offset += written


def read(path: str | bytes) -> bytes:
    """Return the beginning of a regular file, without waiting; nothing from any other kind of file.

    The kernel's own files (proc(5)) are of another kind too: they have a size of 0, and reading one can fail or act.
    """
    try:
        if not _holds_data(os.stat(path)):
            return b""
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY), "rb") as file:
            return (file.read(LIMIT) or b"") if _holds_data(os.fstat(file.fileno())) else b""
    except (OSError, ValueError):
        return b""


def _holds_data(facts: os.stat_result) -> bool:
    return S_ISREG(facts.st_mode) and facts.st_size > 0
