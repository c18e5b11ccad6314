"""What the benchmark makes of its measurements of memory."""

from __future__ import annotations

import os

from tests.bench import cpu
from tests.bench.resources import each_takes


def test_what_each_kind_takes() -> None:
    """Each kind is charged for what came with its own, in all turns, whatever was there before."""
    memory = [1000]

    def adds(size: int) -> None:
        memory[0] += size

    kinds = [lambda: adds(70), lambda: adds(30)]
    assert each_takes(kinds, 5, lambda: memory[0], 0.0) == [70, 30]
    assert memory[0] == 1000 + 2 * 5 * (70 + 30)


def test_proportional_memory() -> None:
    """What a process has for itself alone counts in full."""
    before = cpu.proportional(os.getpid())
    more = bytearray(os.urandom(1 << 20)) * 8
    assert len(more) <= cpu.proportional(os.getpid()) - before < 2 * len(more)
