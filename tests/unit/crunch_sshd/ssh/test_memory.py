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
    """A room knows its own data, wherever in it, and has margins on both sides."""
    room = Room(100)
    assert room.holds(room.data) and room.holds(room.data[7:9])
    assert not room.holds(bytes(100)) and not room.holds(Room(100).data) and not room.holds(memoryview(b""))
    room.whole[:] = b"m" * len(room.whole)
    room.data[:] = b"d" * 100
    assert bytes(room.whole) == b"m" * room.MARGIN + b"d" * 100 + b"m" * room.MARGIN


def test_give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system gets free memory back; a C library without that call is none the worse."""
    give_back()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    give_back()
