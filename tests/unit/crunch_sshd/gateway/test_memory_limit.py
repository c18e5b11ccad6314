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
    limit = MemoryLimit(100 * MIB)
    if full:
        with pytest.raises(Unavailable, match=rf"container c has no memory .* uses {used} of 100 MiB"):
            limit.check("c")
    else:
        limit.check("c")


def test_no_limit() -> None:
    """Without a limit there is always room."""
    MemoryLimit(0).check("c")


def test_resident() -> None:
    """A process's memory is seen to grow; one that is gone has none."""
    before = resident()
    with mmap.mmap(-1, 32 * MIB) as held:  # not from malloc, which may give out memory that it kept
        held.write(b"x" * len(held))
        assert resident(os.getpid()) - before > 30 * MIB
    assert resident(1 << 30) == 0
