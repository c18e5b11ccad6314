"""What the benchmark makes of its measurements of memory."""

from __future__ import annotations

import subprocess
import sys

from tests.bench import cpu
from tests.bench.resources import each_takes

MB = 1 << 20


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
    more = _with(8 * MB) - _with(0)
    assert 7 * MB < more < 9 * MB


def _with(size: int) -> int:
    """Return the memory of a Python with so many bytes."""
    program = f"held = b'x' * {size}; print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as process:  # type: ignore[call-overload]
        process.stdout.readline()
        found = cpu.proportional(process.pid)
        process.communicate(b"\n")
    return found
