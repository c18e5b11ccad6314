"""The processor time and the memory that processes have used, from /proc."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def seconds(pid: int) -> tuple[float, float]:
    """Return the seconds a process has used, and those of its children that have ended (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, children_user, children_system = (int(field) for field in fields[11:15])
    return (user + system) / _TICKS, (children_user + children_system) / _TICKS


def resident(pid: int) -> int:
    """Return the bytes of memory a process has in RAM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has ended")


def proportional(pid: int) -> int:
    """Return the bytes of memory a process has in RAM, with its share of what others have there too (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has ended")


def children(pid: int) -> list[int]:
    """Return the pids of a process's children."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found
