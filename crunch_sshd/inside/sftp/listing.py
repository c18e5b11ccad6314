"""What READDIR answers: a directory's names with their attributes and the lines that ``ls -l`` would print.

Owns an open directory and how its answers are filled. A directory may have a million names, so what many files have in
common (mode and owners, the date) is made once, and no name costs more than one lstat(2) and a few small pieces.
"""

from __future__ import annotations

import os
import time
from stat import filemode

from crunch_sshd.inside.sftp import paths, wire
from crunch_sshd.inside.sftp.attributes import encode_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeVar

    Key = TypeVar("Key")
    Value = TypeVar("Value")

ROOM = 60 * 1024
"""Bytes of entries in one answer: as many as 100 of the longest names take, the most that OpenSSH's server sends; so
every client has room for them."""
REMEMBERED = 1000
"""Owners and dates that are kept; a listing with more starts anew."""
HALF_A_YEAR = 365 * 24 * 60 * 60 // 2
"""Seconds after which ls prints the year instead of the time."""
DAY = 24 * 60 * 60


class Directory:
    """A directory that is being listed: ``.`` and ``..`` first, then as the kernel gives its names."""

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._scan = os.scandir(path)
        self._files = self._all_files()
        self._entries = Entries(paths.names("/etc/passwd"), paths.names("/etc/group"))

    def _all_files(self) -> Iterator[tuple[bytes, os.stat_result]]:
        for name in (b".", b".."):
            yield name, os.lstat(os.path.join(self._path, name))
        for found in self._scan:
            try:
                facts = found.stat(follow_symlinks=False)
            except OSError:
                continue  # since removed, or may not be looked at: OpenSSH leaves it out too
            yield found.name, facts

    def next_entries(self) -> list[bytes]:
        """Return the next entries of a NAME answer, as many as one has room for; none after the last."""
        entry, now, left = self._entries.entry, int(time.time()), ROOM
        entries: list[bytes] = []
        for name, facts in self._files:
            made = entry(name, facts, now)
            entries.append(made)
            left -= len(made)
            if left <= 0:
                break
        return entries

    def close(self) -> None:
        """Close it."""
        self._scan.close()


class Entries:
    """Makes the entries of a listing; their lines are as OpenSSH's ls_file writes them; times are in UTC.

    ``users`` and ``groups`` are names by ids, as text; an id without a name is shown itself.
    """

    def __init__(self, users: dict[bytes, bytes], groups: dict[bytes, bytes]) -> None:
        self._users = users
        self._groups = groups
        self._owners: dict[tuple[int, int, int, int], bytes] = {}
        self._dates: dict[int, tuple[bytes, bytes]] = {}

    def entry(self, name: bytes, facts: os.stat_result, now: int) -> bytes:
        """Return the entry of the file ``name``, listed at ``now``, in seconds."""
        mode, _, _, links, uid, gid, size, accessed, changed, _ = facts
        owners = self._owners.get((mode, links, uid, gid)) or self._make_owners(mode, links, uid, gid)
        day, second = divmod(changed, DAY)
        date, year = self._dates.get(day) or self._make_date(day)
        if date and now - HALF_A_YEAR < changed <= now:
            line = b"%s%8d %s %02d:%02d %s" % (owners, size, date, second // 3600, second // 60 % 60, name)
        else:
            line = b"%s%8d %s%s %s" % (owners, size, date, year, name)
        values = encode_values(size, uid, gid, mode, accessed, changed)
        return wire.entry(name, line, values)

    def _make_owners(self, mode: int, links: int, uid: int, gid: int) -> bytes:
        user, group = b"%d" % uid, b"%d" % gid
        made = b"%s  %3d %-8s %-8s " % (
            filemode(mode).encode(), links, self._users.get(user, user), self._groups.get(group, group)
        )  # fmt: skip
        _keep(self._owners, (mode, links, uid, gid), made)
        return made

    def _make_date(self, day: int) -> tuple[bytes, bytes]:
        try:
            then = time.gmtime(day * DAY)
            made = time.strftime("%b %e", then).encode(), time.strftime("  %Y", then).encode()
        except (OSError, OverflowError, ValueError):
            made = b"", b""  # a year beyond what the C library counts: OpenSSH leaves it out too
        _keep(self._dates, day, made)
        return made


def _keep(known: dict[Key, Value], key: Key, value: Value) -> None:
    if len(known) >= REMEMBERED:
        known.clear()
    known[key] = value
