"""Memory that is taken where it is used."""

from __future__ import annotations

import ctypes
import os
from types import SimpleNamespace

import pytest

from crunch_sshd.ssh.memory import Room, give_back, untouched
from tests.bench.cpu import resident


def test_untouched() -> None:
    """A large buffer is there to be written to, and takes memory only then."""
    before = resident(os.getpid())
    buffer = untouched(64 << 20)
    assert resident(os.getpid()) - before < 32 << 20
    buffer[-3:] = b"end"
    assert bytes(buffer[-4:]) == b"\0end" and len(buffer) == 64 << 20


def test_room() -> None:
    """Data comes out of a room as it was filled in, from any place on; the gaps are between its pieces."""
    room = Room(10, 4, 3)
    assert [len(area) for area in room.areas] == [10] * 3 and len(room.whole) == 4 + 3 * 14
    room.whole[:] = b"." * len(room.whole)
    assert room.fill(bytes(range(26))) == 26
    assert list(map(bytes, room.pieces(26))) == [bytes(range(10)), bytes(range(10, 20)), bytes(range(20, 26))]
    assert bytes(room.piece(7, 26)) == bytes((7, 8, 9)) and bytes(room.piece(12, 14)) == bytes((12, 13))
    assert bytes(room.whole) == b"...." + bytes(range(10)) + b"...." + bytes(range(10, 20)) + b"...." + bytes(
        range(20, 26)) + b"........"  # fmt: skip
    assert bytes(room.behind(20)) == bytes((20, 21, 22, 23)) and bytes(room.behind(8)) == b"\x08\x09.."
    assert room.fill(bytes(31)) == 30
    assert not list(room.pieces(0))


def test_room_that_is_read_into() -> None:
    """readv(2) fills one area after the other; the first alone where that is enough."""
    reader, writer = os.pipe()
    room = Room(10, 4, 3)
    os.write(writer, bytes(range(35)))
    assert os.readv(reader, room.areas) == 30 and b"".join(room.pieces(30)) == bytes(range(30))
    assert os.readv(reader, room.first) == 5 and bytes(room.piece(0, 5)) == bytes(range(30, 35))
    os.close(reader)
    os.close(writer)


def test_give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system gets free memory back; a C library without that call is none the worse."""
    give_back()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    give_back()
