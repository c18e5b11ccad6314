"""The files and directories that a client has open, by their handles."""

from __future__ import annotations

import errno
import os
from struct import Struct

from crunch_sshd.inside.sftp import wire
from crunch_sshd.inside.sftp.errors import Refused
from crunch_sshd.inside.sftp.listing import Directory
from crunch_sshd.inside.sftp.wire import CONTENT, HANDLE_SIZE, Fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    File = tuple[int, bytes]
    """An open file: its descriptor, and the path it was opened by."""

_pack, _SIZE = Struct(">II").pack, 4
_HANDLE = slice(CONTENT, CONTENT + HANDLE_SIZE)
"""Where a request has a handle of ours, with its length: another one's bytes there are those of none."""


class Handles:
    """The open files and directories, at most ``limit``. A handle is never reused for something else.

    Handles are kept as they stand in packets, with their length.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._files: dict[bytes, File] = {}
        self._directories: dict[bytes, Directory] = {}
        self._last = 0

    def check_room(self) -> None:
        """Raise OSError when the limit is reached."""
        if len(self._files) + len(self._directories) >= self.limit:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def add_file(self, descriptor: int, path: bytes) -> bytes:
        """Return a handle, with its length, for an open file, and the path it was opened by."""
        self._last = last = (self._last + 1) & 0xFFFFFFFF
        handle = _pack(_SIZE, last)
        self._files[handle] = descriptor, path
        return handle

    def add_directory(self, opened: Directory) -> bytes:
        """Return a handle, with its length, for an open directory."""
        self._last = last = (self._last + 1) & 0xFFFFFFFF
        handle = _pack(_SIZE, last)
        self._directories[handle] = opened
        return handle

    def file(self, request: memoryview) -> File:
        """Return the open file whose handle is a request's first field.

        Raises :class:`Refused` when it is not a file's, and :class:`wire.Malformed` when the request ends within it.
        """
        found = self._files.get(bytes(request[_HANDLE]))
        return found if found is not None else _refuse(request, wire.FAILURE, "The handle is not an open file")

    def named_file(self, handle: bytes, code: int = wire.FAILURE) -> File:
        """Return the open file of ``handle``, without its length; raise :class:`Refused` with ``code`` for none."""
        found = self._files.get(wire.text(handle))
        if found is None:
            raise Refused(code, "The handle is not an open file")
        return found

    def directory(self, request: memoryview) -> Directory:
        """Do as :meth:`file` for an open directory."""
        found = self._directories.get(bytes(request[_HANDLE]))
        return found if found is not None else _refuse(request, wire.FAILURE, "The handle is not an open directory")

    def close(self, request: memoryview) -> None:
        """Close the file or directory whose handle is a request's first field; raises as :meth:`file`.

        Raises OSError when the last data could not be written (some file systems say so only now).
        """
        handle = bytes(request[_HANDLE])
        file = self._files.pop(handle, None)
        if file is not None:
            os.close(file[0])
        elif handle in self._directories:
            self._directories.pop(handle).close()
        else:
            _refuse(request, wire.NO_SUCH_FILE, "The handle is not open")


def _refuse(request: memoryview, code: int, sentence: str) -> NoReturn:
    Fields(request, CONTENT).view()
    raise Refused(code, sentence)
