"""The process of stock crunch-run that runs a container, known by a pidfd, which never means another process.

Owns finding it where stock detaches: the process that the dispatcher called starts another and ends. That one is named
in the lock file of the container, which an earlier attempt at the same container may still hold. So it counts only if
it holds the lock as stock passes it on, and is of the session that this call was made in.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable
from pathlib import Path

from crunch_sshd.runtimes import host_processes

LOCKS = Path("/var/lock")
LOCK_DESCRIPTOR = 3
"""The descriptor as which stock gives itself the lock."""
LOOK = 0.05
"""Seconds between looks at the lock file, while stock starts itself again."""
GRACE = 5.0
"""Seconds that the lock file may take to be written once the process that was called has ended."""
LIMIT = 4096
"""Bytes read of a lock file: a UUID and a pid."""


def has_ended(pidfd: int, timeout: float = 0.0) -> bool:
    """Wait for the process of a pidfd to end, at most ``timeout`` seconds; say whether it has."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def find_detached(
    uuid: str, launcher: int, session: int, locks: Path = LOCKS, clock: Callable[[], float] = time.monotonic
) -> int | None:
    """Return a pidfd of the process that runs ``uuid``, started from the one of pidfd ``launcher`` and its ``session``.

    None when there is none: stock failed, or found that another attempt has the lock. Blocks while stock starts.
    """
    lock = locks / f"crunch-run-{uuid}.lock"
    deadline: float | None = None
    while True:
        found = _holder(lock, session)
        if found is not None:
            return found
        if deadline is None and has_ended(launcher):
            deadline = clock() + GRACE
        if deadline is not None and clock() > deadline:
            return None
        time.sleep(LOOK)


def _holder(lock: Path, session: int) -> int | None:
    """Return a pidfd of the process that the lock file names, if it holds the lock and is of ``session``."""
    pid = _named(lock)
    try:
        pidfd = os.pidfd_open(pid) if pid else None
    except OSError:
        return None
    if pidfd is None:
        return None
    # The pidfd is open: were the process another one by now, what follows would not hold for it.
    facts = host_processes.stat(pid)
    if facts is not None and facts.session == session and _holds(pid, lock) and not has_ended(pidfd):
        return pidfd
    os.close(pidfd)
    return None


def _named(lock: Path) -> int:
    try:
        # Anybody may make a file there: a link, or a pipe that nobody writes to.
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            return int(json.loads(file.read(LIMIT))["PID"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return 0  # not there, or not yet written


def _holds(pid: int, lock: Path) -> bool:
    try:
        return os.path.samefile(f"/proc/{pid}/fd/{LOCK_DESCRIPTOR}", lock)
    except OSError:
        return False
