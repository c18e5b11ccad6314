"""When a gateway has no room for another session."""

from __future__ import annotations

import mmap
import os

import pytest

from arv_ssh.errors import Unavailable
from crunch_sshd.gateway import memory_limit
from crunch_sshd.gateway.memory_limit import MemoryLimit, resident

MIB = 1 << 20


@pytest.mark.parametrize(("used", "full"), [(79, False), (80, True), (101, True)])
def test_room(monkeypatch: pytest.MonkeyPatch, used: int, full: bool) -> None:
    """From four fifths of the limit on a session is refused, with what is used and what there is."""
    monkeypatch.setattr(memory_limit, "resident", lambda: used * MIB)
    limit = MemoryLimit(100 * MIB, "c")
    if full:
        with pytest.raises(Unavailable, match=rf"container c has no memory .* session .* uses {used} of 100 MiB"):
            limit.check_session()
    else:
        limit.check_session()


def test_room_for_a_forwarded_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwarded connections are refused while there is still room for sessions."""
    limit = MemoryLimit(100 * MIB, "c")
    monkeypatch.setattr(memory_limit, "resident", lambda: 59 * MIB)
    limit.check_forward()
    monkeypatch.setattr(memory_limit, "resident", lambda: 60 * MIB)
    with pytest.raises(Unavailable, match="container c has no memory for another forwarded connection .*60 of 100 MiB"):
        limit.check_forward()
    limit.check_session()


def test_no_limit() -> None:
    """Without a limit there is always room."""
    MemoryLimit(0).check_session()


def test_resident() -> None:
    """A process's memory is seen to grow; one that is gone has none."""
    before = resident()
    with mmap.mmap(-1, 32 * MIB) as held:  # not from malloc, which may give out memory that it kept
        held.write(b"x" * len(held))
        assert resident(os.getpid()) - before > 30 * MIB
    assert resident(1 << 30) == 0
