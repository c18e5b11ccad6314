"""Looks up paths and users inside the container without the C library's NSS, which would load the container's code."""

from __future__ import annotations

import errno
import os
from stat import S_ISLNK

from crunch_sshd.inside import files, nss_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINKS = 32
"""Symbolic links to follow before assuming a loop (MAXSYMLINKS where OpenSSH came from)."""


def real_path(path: bytes) -> bytes:
    """Return the absolute path without links, ``.`` and ``..``; the last component need not exist (as OpenSSH)."""
    found: list[bytes] = [] if path.startswith(b"/") else _parts(os.getcwdb())
    left = path.split(b"/")[::-1]
    links = 0
    while left:
        part = left.pop()
        if part in (b"", b"."):
            continue
        if part == b"..":
            del found[-1:]
            continue
        found.append(part)
        target = _link(_joined(found), last=not left)
        if target is None:
            continue
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        found = [] if target.startswith(b"/") else found[:-1]
        left += target.split(b"/")[::-1]
    return _joined(found)


def _link(path: bytes, *, last: bool) -> bytes | None:
    """Return a symbolic link's target; None for anything else, and when the last component of a path is missing."""
    try:
        return os.readlink(path) if S_ISLNK(os.lstat(path).st_mode) else None
    except FileNotFoundError:
        if last:
            return None
        raise


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part]


def _joined(parts: list[bytes]) -> bytes:
    return b"/" + b"/".join(parts)


def expand_home(path: bytes, home: bytes) -> bytes:
    """Return ``path`` with a leading ``~`` or ``~user`` replaced; raise FileNotFoundError for an unknown user."""
    if not path.startswith(b"~"):
        return path
    user, _, rest = path[1:].partition(b"/")
    return (home_of(user) if user else home) + (b"/" + rest if rest else b"")


def home_of(user: bytes) -> bytes:
    """Return a user's home directory; raise FileNotFoundError for an unknown one."""
    for name, _, uid, gid, _, home, _ in _database("/etc/passwd", 7):
        if name.encode("latin-1") == user and None not in (nss_files.number(uid), nss_files.number(gid)):
            return home.encode("latin-1")
    raise FileNotFoundError(errno.ENOENT, "No such user")


def names(database: str) -> dict[bytes, bytes]:
    """Return the names in /etc/passwd or /etc/group by their ids, as text; an id's first name counts."""
    found: dict[bytes, bytes] = {}
    for name, _, *numbers, _ in _database(database, 5 if database == "/etc/passwd" else 4):
        ids = [nss_files.number(one) for one in numbers]
        if None not in ids:
            found.setdefault(b"%d" % (ids[0] or 0), name.encode("latin-1"))
    return found


def _database(path: str, fields: int) -> Iterator[list[str]]:
    """Yield the lines' fields, whatever their encoding: each byte is one character."""
    return nss_files.entries(files.read(path).decode("latin-1"), fields)
