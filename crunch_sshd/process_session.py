"""The processes of one exec, found on the host by their session id, and how they are ended.

Owns reading /proc, and the order of signals. An exec's first process is the leader of a session of its own (both runc
and crun call setsid(2)), so what it started carries its pid as session id, unless it left with setsid itself.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
NAMES = {name: getattr(signal, f"SIG{name}") for name in (
    "ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2",
)}  # fmt: skip
"""The signals of RFC 4254 §6.10 by their names there."""
SIGNAL_NAMES = {number: name for name, number in NAMES.items()}
HANG_UP_STEP = 2.0
"""Seconds between SIGHUP, SIGTERM and SIGKILL."""
HANG_UP_LOOK = 0.05
"""Seconds between looks whether all are gone."""


@dataclass(frozen=True)
class Stat:
    """The fields of /proc/PID/stat (proc(5)) that matter here; ``start_time`` in clock ticks tells a reused pid."""

    pid: int
    state: str
    process_group: int
    session: int
    foreground_group: int
    start_time: int


def stat(pid: int) -> Stat | None:
    """Return a process's facts, or None when it is gone."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command's name may hold spaces and parentheses; the fields after the last one do not.
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(pid, fields[0], int(fields[2]), int(fields[3]), int(fields[5]), int(fields[19]))


def members(session: int, container_id: str) -> list[Stat]:
    """Return the living processes of a session in a container.

    The container's id is looked for in each one's control group, so that a session id that the host has used again
    can never point at anything outside.
    """
    found = (stat(int(entry)) for entry in os.listdir(PROC) if entry.isdigit())
    alive = [one for one in found if one is not None and one.session == session and one.state not in "ZX"]
    return [one for one in alive if container_id in control_groups(one.pid)]


def control_groups(pid: int) -> str:
    """Return the text of /proc/PID/cgroup, which holds the id of the process's container; "" when it is gone."""
    try:
        return (PROC / str(pid) / "cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def pid_inside(pid: int) -> int | None:
    """Return the pid that a process has in its innermost pid namespace (NSpid of /proc/PID/status)."""
    try:
        text = (PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    line = next((line for line in text.splitlines() if line.startswith("NSpid:")), "")
    return int(line.split()[-1]) if line else None


def foreground_group(leader: int) -> int | None:
    """Return the process group that a client's signal is for: the terminal's foreground, else the leader's own."""
    facts = stat(leader)
    if facts is None:
        return None
    return facts.foreground_group if facts.foreground_group > 0 else facts.process_group


def kill(pids: list[int], number: int) -> None:
    """Send a signal to processes, and to process groups given as negative numbers; one that is gone is no failure."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def hang_up(leader: int, container_id: str, send: Callable[[list[int], int], None]) -> None:
    """End a session's processes: SIGHUP, then SIGTERM, then SIGKILL, :data:`HANG_UP_STEP` apart, by ``send``."""
    for name in ("HUP", "TERM", "KILL"):
        found = members(leader, container_id)
        if not found:
            return
        send([one.pid for one in found], NAMES[name])
        deadline = time.monotonic() + HANG_UP_STEP
        while time.monotonic() < deadline and members(leader, container_id):
            time.sleep(HANG_UP_LOOK)
