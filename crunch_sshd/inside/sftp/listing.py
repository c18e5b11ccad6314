"""What READDIR answers: a directory's names with their attributes and the lines that ``ls -l`` would print.

Owns an open directory and how its answers are filled. A directory may have a million names, so what many files have in
common (mode and owners, the date) is made once, and no name costs more than one lstat(2) and a few small pieces.
"""

from __future__ import annotations

import os
import time
from itertools import chain
from stat import filemode

from crunch_sshd.inside.sftp import paths, wire
from crunch_sshd.inside.sftp.attributes import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeVar

    Key = TypeVar("Key")
    Value = TypeVar("Value")

ROOM = 60 * 1024
"""Bytes of entries in one answer: as many as 100 of the longest names take, the most that OpenSSH's server sends; so
every client has room for them."""
OWNERS, DAYS = 100, 1000
"""Kinds of owners of each open directory, and days of all, that are remembered; beyond these it begins anew."""
HALF_A_YEAR = 365 * 24 * 60 * 60 // 2
"""Seconds after which ls prints the year instead of the time."""
FRESH = 0.5
"""Seconds for which entries made ahead count."""
DAY = 24 * 60 * 60


class Directory:
    """A directory that is being listed: ``.`` and ``..`` first, then as the kernel gives its names.

    What comes next is made while the client is busy with the last answer (:meth:`read_ahead`), and is used only for the
    very next request, soon: what a client has changed, it sees in its listing, as with OpenSSH.
    """

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._scan = os.scandir(path)
        self._entries = Entries(paths.names("/etc/passwd"), paths.names("/etc/group"))
        self._first = [b"..", b"."]  # names to look at before the kernel's next, the last one first
        self._files = self._all_files()
        self._ahead: tuple[int, float, list[bytes], list[bytes]] | None = None

    def next_entries(self, request: int) -> list[bytes]:
        """Return the next entries of a NAME answer, as many as one has room for; none after the last.

        ``request`` counts the client's requests.
        """
        if self._ahead is not None:
            wanted, until, _, entries = self._ahead
            if wanted == request and time.monotonic() < until:
                self._ahead = None
                return entries
            self.forget()
        return self._make()[1]

    def forget(self) -> None:
        """Let go of what was made ahead; it will be made anew."""
        if self._ahead is not None:
            self._first += self._ahead[2][::-1]
            self._ahead = None

    def read_ahead(self, request: int) -> None:
        """Make the entries for the request after ``request``."""
        if self._ahead is None:
            names, entries = self._make()
            self._ahead = request + 1, time.monotonic() + FRESH, names, entries

    def _make(self) -> tuple[list[bytes], list[bytes]]:
        """Return the next names and their entries."""
        entry, now, left = self._entries.entry, int(time.time()), ROOM
        names: list[bytes] = []
        entries: list[bytes] = []
        for name, facts in chain(self._first_files(), self._files):
            made = entry(name, facts, now)
            names.append(name)
            entries.append(made)
            left -= len(made)
            if left <= 0:
                break
        return names, entries

    # A file that was removed since, or may not be looked at, is left out, as by OpenSSH; which takes an error of
    # readdir(3) for the end, too.

    def _first_files(self) -> Iterator[tuple[bytes, Any]]:
        while self._first:
            name = self._first.pop()
            try:
                facts = os.lstat(os.path.join(self._path, name))
            except OSError:
                continue
            yield name, facts

    def _all_files(self) -> Iterator[tuple[bytes, Any]]:
        while True:
            try:
                found = next(self._scan)
            except (StopIteration, OSError):
                return
            try:
                facts = found.stat(follow_symlinks=False)
            except OSError:
                continue
            yield found.name, facts

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

    def entry(self, name: bytes, facts: tuple[int, ...], now: int) -> bytes:
        """Return the entry of the file ``name``, listed at ``now``, in seconds.

        ``facts`` is its stat_result, as the tuple in which times are whole seconds.
        """
        mode, _, _, links, uid, gid, size, _, changed, _ = facts
        owners = self._owners.get((mode, links, uid, gid)) or self._make_owners(mode, links, uid, gid)
        day, second = divmod(changed, DAY)
        date, year = _dates.get(day) or _make_date(day)
        if date and now - HALF_A_YEAR < changed <= now:
            line = b"%s%8d %s %02d:%02d %s" % (owners, size, date, second // 3600, second // 60 % 60, name)
        else:
            line = b"%s%8d %s%s %s" % (owners, size, date, year, name)
        return wire.entry(name, line, encode(facts))

    def _make_owners(self, mode: int, links: int, uid: int, gid: int) -> bytes:
        user, group = b"%d" % uid, b"%d" % gid
        made = b"%s  %3d %-8s %-8s " % (
            filemode(mode).encode(), links, self._users.get(user, user), self._groups.get(group, group)
        )  # fmt: skip
        _keep(self._owners, (mode, links, uid, gid), made, OWNERS)
        return made


_dates: dict[int, tuple[bytes, bytes]] = {}


def _make_date(day: int) -> tuple[bytes, bytes]:
    try:
        then = time.gmtime(day * DAY)
        made = time.strftime("%b %e", then).encode(), time.strftime("  %Y", then).encode()
    except (OSError, OverflowError, ValueError):
        made = b"", b""  # a year beyond what the C library counts: OpenSSH leaves it out too
    _keep(_dates, day, made, DAYS)
    return made


def _keep(known: dict[Key, Value], key: Key, value: Value, most: int) -> None:
    if len(known) >= most:
        known.clear()
    known[key] = value
