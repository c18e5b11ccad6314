"""Listings of directories: everything once, in packets that every client has room for, and never out of date."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from crunch_sshd.inside.sftp import listing, wire
from crunch_sshd.inside.sftp.listing import Directory, Entries
from crunch_sshd.inside.sftp.operations import Operations
from tests.unit.crunch_sshd.inside.sftp.client import OURS, Answer, Client, do, packet

NOW = 1_700_000_000
LATE = 1 << 62
"""Seconds, in a year that the C library does not count to."""
MANY = 2500
"""Files whose entries need several answers."""


def facts(changed: int = NOW, uid: int = 0, size: int = 5) -> tuple[int, ...]:
    return stat.S_IFREG | 0o644, 1, 1, 1, uid, 0, size, changed, changed, changed


def line(entry: bytes) -> bytes:
    """The line in an entry."""
    fields = wire.Fields(memoryview(entry))
    fields.string()
    return fields.string()


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        (NOW, b"Nov 14 22:13"),
        (NOW + 1, b"Nov 14  2023"),
        (NOW - listing.HALF_A_YEAR + 1, b"May 16 10:13"),
        (NOW - listing.HALF_A_YEAR, b"May 16  2023"),
        (0, b"Jan  1  1970"),
        (-1, b"Dec 31  1969"),
        (LATE, b""),
    ],
)
def test_dates(changed: int, shown: bytes) -> None:
    """The time of day stands for the last half year, the year for the rest, nothing for a year beyond all counting."""
    made = Entries({}, {}).entry(b"name", facts(changed), NOW)
    assert line(made) == b"-rw-r--r--    1 0        0               5 %s name" % shown


def test_owners() -> None:
    """Names stand for ids that have one; files of the same mode and owners differ in everything else."""
    entries = Entries({b"0": b"root"}, {b"0": b"a-long-name-of-a-group"})
    lines = [line(entries.entry(b"n", facts(uid=uid, size=size), NOW)) for uid, size in ((0, 1), (0, 22), (7, 1))]
    assert lines == [
        b"-rw-r--r--    1 root     a-long-name-of-a-group        1 Nov 14 22:13 n",
        b"-rw-r--r--    1 root     a-long-name-of-a-group       22 Nov 14 22:13 n",
        b"-rw-r--r--    1 7        a-long-name-of-a-group        1 Nov 14 22:13 n",
    ]


def test_memory() -> None:
    """A directory whose files have nothing in common does not fill the memory."""
    entries = Entries({}, {})
    for number in range(3 * listing.DAYS):
        entries.entry(b"name", facts(number * listing.DAY, uid=number), NOW)
    assert len(entries._owners) <= listing.OWNERS and len(listing._dates) <= listing.DAYS


def test_one_ahead(large: Path) -> None:
    """Of many directories that are listed in turns, one at a time has an answer in memory; none loses a name."""
    answers = wire.Answers()
    operations = Operations(answers, b"/", 10)

    def ask(kind: int, *fields: int | bytes) -> bytes:
        do(operations, packet(kind, *fields))
        said = bytes(answers.take())
        if operations.listed is not None:
            operations.use_pause(operations.listed)
        return said

    ask(wire.INIT, wire.VERSION)
    handles = [ask(wire.OPENDIR, 1, os.fsencode(large))[13:] for _ in range(3)]
    heard: dict[bytes, list[bytes]] = {handle: [] for handle in handles}
    for _ in range(20):
        for handle in handles:
            said = Answer(ask(wire.READDIR, 1, handle)[4:])
            heard[handle] += [name for name, _, _ in said.names()] if said.kind == wire.NAME else []
            open_now = list(operations.handles._directories.values())
            assert sum(directory._ahead is not None for directory in open_now) == 1
    for names in heard.values():
        assert sorted(names) == sorted([b".", b"..", *map(os.fsencode, os.listdir(large))])


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A directory that takes several answers."""
    for number in range(MANY):
        (tmp_path / f"{number:04}-{'x' * 60}").touch()
    return tmp_path


def answers(client: Client, handle: bytes) -> Iterator[list[bytes]]:
    """The names of each answer, until the end of the listing."""
    while (answer := client.ask(wire.READDIR, handle)).kind == wire.NAME:
        assert len(answer.content) < 64 * 1024
        yield [name for name, _, _ in answer.names()]
    assert answer.code == wire.EOF


def test_all_names(large: Path) -> None:
    """Every name comes once, ``.`` and ``..`` too, in far fewer answers than with 100 names in each."""
    with Client(OURS, large) as client:
        heard = list(answers(client, client.ask(wire.OPENDIR, b".").text))
    assert sorted(sum(heard, [])) == sorted([b".", b"..", *map(os.fsencode, os.listdir(large))])
    assert 2 < len(heard) < MANY / 200


def test_own_changes(large: Path) -> None:
    """What a client has changed since the last answer, the next one shows, though it was made ahead."""
    with Client(OURS, large) as client:
        handle = client.ask(wire.OPENDIR, b".").text
        rest = answers(client, handle)
        listed = next(rest)
        left = [name for name in map(os.fsencode, os.listdir(large)) if name not in listed]
        for name in left[1:-1]:
            assert client.ask(wire.REMOVE, name).code == wire.OK
        assert sum(rest, []) == [left[0], left[-1]]


def test_pause(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made ahead is made anew for a client that paused."""
    directory = Directory(os.fsencode(large))
    listed = len(directory.next_entries(1))
    monkeypatch.setattr(listing, "FRESH", 0)
    directory.read_ahead(1)
    for path in large.iterdir():
        path.unlink()
    assert 0 < listed < MANY
    assert directory.next_entries(2) == []
    directory.close()


def test_made_ahead(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made ahead is what the very next request gets, and is made once."""
    monkeypatch.setattr(listing, "FRESH", 3600)
    directory = Directory(os.fsencode(large))
    listed = directory.next_entries(1)
    directory.read_ahead(1)
    directory.read_ahead(1)
    for path in large.iterdir():
        path.unlink()
    ahead = directory.next_entries(2)
    assert ahead and not set(ahead) & set(listed)
    assert directory.next_entries(3) == []
    directory.close()
