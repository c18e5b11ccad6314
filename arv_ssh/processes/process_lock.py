"""Whether a process we started is alive: a lock file that it inherits.

Owns files locked with flock(2). The lock belongs to the open file, which the child inherits, so the kernel releases it
when the child ends, however it ends; a reused pid, a restart of the parent, or a reboot cannot
mislead. The file's text is the pid, for signals. Knows nothing of what the process does.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from pathlib import Path
from types import TracebackType


class ProcessLock:
    """One held lock. Hand :attr:`descriptor` to the child (``pass_fds``), then :meth:`hand_over`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    def record(self, pid: int) -> None:
        """Write down which process holds the lock."""
        os.truncate(self.descriptor, 0)
        os.pwrite(self.descriptor, f"{pid}\n".encode(), 0)

    def hand_over(self, pid: int) -> None:
        """Record the child's pid and let go of our side: from now on the lock lives as long as the child."""
        self.record(pid)
        self.close()

    def discard(self) -> None:
        """Remove the file and the lock: there is nothing to watch any more."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close our side. That frees a lock that no child inherited."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> ProcessLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def acquire(path: Path) -> ProcessLock | None:
    """Take the lock at ``path``, creating the file (0600); None when a living process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return ProcessLock(path, descriptor)


def is_held(path: Path) -> bool:
    """Say whether a living process holds the lock at ``path``; no file means no."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def send_signal(path: Path, number: signal.Signals) -> bool:
    """Send a signal to the process that holds the lock at ``path``; False when it is free or the pid is not known yet.

    The pid is pinned by a pidfd before the lock is looked at, so no other process can get the signal.
    """
    with_pid = _holder(path)
    if with_pid is None:
        return False
    try:
        signal.pidfd_send_signal(with_pid, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(with_pid)
    return True


def end(path: Path, grace: float) -> bool:
    """Ask the holder to end (SIGTERM), kill it (SIGKILL) after ``grace`` seconds; say whether it ended by itself."""
    holder = _holder(path)
    if holder is None:
        return True
    try:
        signal.pidfd_send_signal(holder, signal.SIGTERM)
        # A pidfd is readable once its process has ended (pidfd_open(2)).
        if select.select([holder], [], [], grace)[0]:
            return True
        signal.pidfd_send_signal(holder, signal.SIGKILL)
        select.select([holder], [], [])
        return False
    except ProcessLookupError:
        return True
    finally:
        os.close(holder)


def holder_pid(path: Path) -> int | None:
    """Return the pid written in the lock file at ``path`` while it is held."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdecimal() and is_held(path) else None


def _holder(path: Path) -> int | None:
    pid = holder_pid(path)
    if pid is None:
        return None
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # The pid may have been reused before it was pinned: then the lock is free or has another pid.
    if holder_pid(path) != pid:
        os.close(descriptor)
        return None
    return descriptor
