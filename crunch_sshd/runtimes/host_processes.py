"""The processes of one exec, found on the host by their session id, and how they are ended.

Owns reading /proc, and the order of signals. An exec's first process leads a session of its own (runc calls setsid(2),
crun on a terminal only), so its descendants have the same session id, unless they left it with setsid themselves.
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
OTHER_SIGNAL = "SIG@openssh.com"
"""sshd's name for a signal that has none in RFC 4254."""
HANG_UP_STEPS = (signal.SIGHUP, signal.SIGTERM, signal.SIGKILL)
HANG_UP_STEP = 2.0
"""Seconds between two of :data:`HANG_UP_STEPS`."""
HANG_UP_LOOK = 0.05
"""Seconds between checks whether all are gone."""


@dataclass(frozen=True)
class Stat:
    """The fields of /proc/PID/stat (proc(5)) that matter here; ``start_time`` in clock ticks reveals a reused pid."""

    pid: int
    state: str
    parent: int
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
    return Stat(pid, fields[0], int(fields[1]), int(fields[2]), int(fields[3]), int(fields[5]), int(fields[19]))


def is_alive(pid: int) -> bool:
    """Say whether a process runs, and is no zombie."""
    facts = stat(pid)
    return facts is not None and facts.state not in "ZX"


def pid_namespace(pid: int) -> int | None:
    """Return what identifies a process's pid namespace; None when the process is gone or may not be looked into."""
    try:
        return os.stat(PROC / str(pid) / "ns" / "pid").st_ino
    except OSError:
        return None


@dataclass(frozen=True)
class ContainerIdentity:
    """How to tell a container's processes from all others on the host, so that a signal never goes astray.

    ``control_group`` is text found in theirs (the container's id, or all of it); ``namespace`` is their pid namespace,
    if known. So a session id that the host has used again can never point at anything outside the container.
    """

    control_group: str
    namespace: int | None = None

    def covers(self, pid: int) -> bool:
        """Say whether the process with that pid is one of the container's."""
        host = pid_namespace(os.getpid())
        if self.namespace not in (None, host):
            found = pid_namespace(pid)
            if found in (self.namespace, host):
                return found == self.namespace  # the runtime's own helpers can be in the container's control group
        return self.control_group in control_groups(pid)


def session_of(leader: int) -> int:
    """Return the session of an exec's first process: its own, or with crun the one crun was started in."""
    facts = stat(leader)
    return facts.session if facts is not None else leader


def members(session: int, identity: ContainerIdentity) -> list[Stat]:
    """Return the living processes of a session in the container with ``identity``."""
    return [one for one in processes() if one.session == session and one.state not in "ZX" and identity.covers(one.pid)]


def to_hang_up(session: int, identity: ContainerIdentity) -> list[Stat]:
    """Return the members that a lost client's session ends: all but those that ignore SIGHUP, as nohup(1) asks.

    A process inherits that from its parent, and may begin or cease to ignore it; what it does now counts.
    """
    return [one for one in members(session, identity) if not ignores(one.pid, signal.SIGHUP)]


def ignores(pid: int, number: int) -> bool:
    """Say whether a process ignores a signal (SigIgn of /proc/PID/status, a mask with bit 0 for signal 1)."""
    return bool(int(_status_field(pid, "SigIgn") or "0", 16) & 1 << (number - 1))


def processes() -> list[Stat]:
    """Return the facts of all processes of this host."""
    found = (stat(int(entry)) for entry in os.listdir(PROC) if entry.isdigit())
    return [one for one in found if one is not None]


def control_groups(pid: int) -> str:
    """Return the text of /proc/PID/cgroup, which holds the id of the process's container; "" when it is gone."""
    try:
        return (PROC / str(pid) / "cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def pid_inside(pid: int) -> int | None:
    """Return the pid that a process has in its innermost pid namespace."""
    found = _pids(pid)
    return found[-1] if found else None


def namespace_depth(pid: int) -> int:
    """Return the number of nested pid namespaces in which a process has a pid; 0 when it is gone."""
    return len(_pids(pid))


def _pids(pid: int) -> list[int]:
    """Return NSpid of /proc/PID/status: a process's pids, from the namespace of that /proc to its innermost."""
    return [int(word) for word in _status_field(pid, "NSpid").split()]


def _status_field(pid: int, name: str) -> str:
    """Return a field of /proc/PID/status; "" when the process is gone."""
    try:
        text = (PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return next((value for line in text.splitlines() for key, _, value in [line.partition(":")] if key == name), "")


def signal_targets(leader: int, identity: ContainerIdentity) -> list[int]:
    """Return the targets of a client's signal, for :func:`kill`: the terminal's foreground, else the process's group.

    A process that was not made a group's leader shares its runtime's group; only the container's part of that counts.
    """
    facts = stat(leader)
    if facts is None or not identity.covers(leader):
        return []
    if facts.foreground_group > 0:
        return [-facts.foreground_group]
    if facts.process_group == leader:
        return [-leader]
    return [one.pid for one in processes() if one.process_group == facts.process_group and identity.covers(one.pid)]


def kill(pids: list[int], number: int) -> None:
    """Send a signal to processes, and to process groups given as negative numbers; one that is gone is not an error."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def hang_up(session: int, identity: ContainerIdentity, send: Callable[[list[int], int], None]) -> None:
    """End a session's processes that do not ignore SIGHUP, with :data:`HANG_UP_STEPS`, by ``send``."""
    for number in HANG_UP_STEPS:
        found = to_hang_up(session, identity)
        if not found:
            return
        send([one.pid for one in found], number)
        deadline = time.monotonic() + HANG_UP_STEP
        while time.monotonic() < deadline and to_hang_up(session, identity):
            time.sleep(HANG_UP_LOOK)


def break_pipe(session: int, identity: ContainerIdentity, send: Callable[[list[int], int], None], tries: int) -> None:
    """End who writes to an output that nobody reads, where the pipe itself cannot be closed.

    The first of ``tries`` sends SIGPIPE to processes without children: a shell that waits for another is no writer. The
    second sends it to all, and from then on they are hung up, since what ignores SIGPIPE got no error from its write.
    """
    found = members(session, identity)
    parents = {one.parent for one in found}
    if tries == 0:
        send([one.pid for one in found if one.pid not in parents], signal.SIGPIPE)
    elif tries == 1:
        send([one.pid for one in found], signal.SIGPIPE)
    else:
        hang_up(session, identity, send)
