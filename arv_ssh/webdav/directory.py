"""A directory whose files may be read, and nothing outside it.

Owns the way from a request's path to an open file: one name after the other, and never through a symbolic link, so that
neither a link nor ``..`` leads out. Only regular files are opened. Knows nothing of HTTP.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from arv_ssh.errors import Forbidden, NotFound

MAX_ENTRIES = 2000
"""Entries of a directory that are listed: an answer of one megabyte. Logs have a dozen."""


@dataclass(frozen=True)
class Entry:
    """A file or a directory, by its name in the directory it is in; ``modified`` is in nanoseconds since the epoch."""

    name: bytes
    is_directory: bool
    size: int
    modified: int

    @classmethod
    def of(cls, name: bytes, found: os.stat_result) -> Entry:
        """Return the entry of a file with that status."""
        is_directory = stat.S_ISDIR(found.st_mode)
        return cls(name, is_directory, 0 if is_directory else found.st_size, found.st_mtime_ns)


class Directory:
    """The directory ``path``, which need not exist yet. Methods block; any thread. All raise :class:`NotFound`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open_file(self, names: Sequence[bytes]) -> tuple[FileIO | None, Entry]:
        """Return the file at ``names``, open for reading; None for a directory."""
        with self._found(names) as place:
            entry = _entry(names, place)
            # Not by its name again, which may be another file's by now.
            return None if entry.is_directory else FileIO(f"/proc/self/fd/{place}"), entry

    def list(self, names: Sequence[bytes], *, deep: bool) -> list[Entry]:
        """Return what is at ``names``, and with ``deep`` what is in it, by name; links and devices are left out.

        Raises :class:`Forbidden` when those are more than :data:`MAX_ENTRIES`.
        """
        with self._found(names) as place:
            first = _entry(names, place)
            return [first, *(_entries(place) if deep and first.is_directory else [])]

    @contextmanager
    def _found(self, names: Sequence[bytes]) -> Iterator[int]:
        """Give a descriptor that names what is at ``names`` and opens nothing (O_PATH)."""
        place = _open(os.fsencode(self._path), os.O_DIRECTORY)
        try:
            for name in names:
                if name in (b".", b"..") or b"/" in name or b"\0" in name:
                    raise NotFound(_MISSING)
                inner = _open(name, os.O_NOFOLLOW, place)
                os.close(place)
                place = inner
            yield place
        finally:
            os.close(place)


_MISSING = "there is no such file"


def _open(name: bytes, flags: int, inside: int | None = None) -> int:
    try:
        return os.open(name, os.O_PATH | os.O_CLOEXEC | flags, dir_fd=inside)
    except OSError as error:  # also of a name inside what is a file or a link
        raise NotFound(_MISSING) from error


def _entry(names: Sequence[bytes], place: int) -> Entry:
    found = os.fstat(place)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise NotFound(_MISSING)
    return Entry.of(names[-1] if names else b"", found)


def _entries(place: int) -> list[Entry]:
    found = []
    descriptor = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(descriptor) as scanned:
            for one in scanned:
                if one.is_file(follow_symlinks=False) or one.is_dir(follow_symlinks=False):
                    found.append(Entry.of(os.fsencode(one.name), one.stat(follow_symlinks=False)))
                if len(found) > MAX_ENTRIES:
                    raise Forbidden(f"the directory has more than {MAX_ENTRIES} entries; ask for its files by name")
    except FileNotFoundError as error:  # removed meanwhile
        raise NotFound(_MISSING) from error
    finally:
        os.close(descriptor)
    return sorted(found, key=lambda entry: entry.name)
