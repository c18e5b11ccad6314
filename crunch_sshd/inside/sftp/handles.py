"""The files and directories that a client has open, by their handles."""

from __future__ import annotations

import errno
import os

from crunch_sshd.inside.sftp import wire
from crunch_sshd.inside.sftp.errors import Refused
from crunch_sshd.inside.sftp.listing import Directory


class File:
    """An open file: its descriptor, and the path it was opened by."""

    def __init__(self, descriptor: int, path: bytes) -> None:
        self.descriptor = descriptor
        self.path = path

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of ``data``; if the kernel takes only a part, writing the rest fails with the reason."""
        while data:
            written = os.pwrite(self.descriptor, data, offset)
            data = data[written:]
            offset += written

    def close(self) -> None:
        """Close it. Raises OSError when the last data could not be written (some file systems say so only now)."""
        os.close(self.descriptor)


class Handles:
    """The open files and directories, at most ``limit``. A handle is never reused for something else."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: dict[bytes, File | Directory] = {}
        self._last = 0

    def check_room(self) -> None:
        """Raise OSError when the limit is reached."""
        if len(self._open) >= self.limit:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def add(self, opened: File | Directory) -> bytes:
        """Return a handle for ``opened``."""
        self._last = (self._last + 1) & 0xFFFFFFFF
        handle = wire.number(self._last)
        self._open[handle] = opened
        return handle

    def file(self, handle: bytes, code: int = wire.FAILURE) -> File:
        """Return the open file; raise :class:`Refused` with ``code`` when ``handle`` is not a file's."""
        found = self._open.get(handle)
        if not isinstance(found, File):
            raise Refused(code, "The handle is not an open file")
        return found

    def directory(self, handle: bytes) -> Directory:
        """Return the open directory; raise :class:`Refused` when ``handle`` is not a directory's."""
        found = self._open.get(handle)
        if not isinstance(found, Directory):
            raise Refused(wire.FAILURE, "The handle is not an open directory")
        return found

    def close(self, handle: bytes) -> None:
        """Close the file or directory that ``handle`` names."""
        found = self._open.pop(handle, None)
        if found is None:
            raise Refused(wire.NO_SUCH_FILE, "The handle is not open")
        found.close()
