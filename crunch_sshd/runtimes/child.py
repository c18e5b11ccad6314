"""A child of this process that works for it in a container, and our ends of its streams.

Owns ending it and waiting for it, by a pidfd: nothing meant for it reaches another process that has its pid later.
Knows nothing of how it was started.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress

from crunch_sshd.inside.start import END_TIMEOUT
from crunch_sshd.inside.starter import starter

SIGNALLED = 128
"""The exit status of what a signal ended begins here, as in a shell."""


class Child:
    """The child ``pid``, for which nothing else may wait.

    ``stdin``, ``stdout`` and ``stderr`` are our ends of its pipes, or -1; :meth:`wait` leaves them open. Raises
    OSError, and ends the child, where there is no room to hold it.
    """

    def __init__(self, pid: int, ours: Sequence[int] = ()) -> None:
        self.pid = pid
        self.stdin, self.stdout, self.stderr = ours or (-1, -1, -1)
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

    def kill(self) -> None:
        """Kill it, which has no effect when it has ended. Not after a wait."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)  # a zombie takes it without complaint

    def wait(self, timeout: float | None = None) -> int:
        """Wait once for its end; return its exit status, or 128 and the signal.

        Raises TimeoutError after so many seconds.
        """
        over = select.poll()
        over.register(self._pidfd, select.POLLIN)
        if not over.poll(None if timeout is None else timeout * 1000):
            raise TimeoutError(f"process {self.pid} does not end")
        found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        self.let_go()
        assert found is not None  # noqa: S101 - without WNOHANG
        if found.si_code == os.CLD_EXITED:
            return found.si_status
        starter.ended(found.si_status)
        return SIGNALLED + found.si_status

    def end(self) -> None:
        """Kill it and wait, but not for one that is frozen, which ends once it thaws; close the pipes."""
        self.kill()
        try:
            self.wait(END_TIMEOUT)
        except TimeoutError:
            self.let_go()
            reap(self.pid)
        self.close()

    def close(self) -> None:
        """Close the pipes."""
        for descriptor in (self.stdin, self.stdout, self.stderr):
            if descriptor >= 0:
                os.close(descriptor)

    def let_go(self) -> None:
        """Leave it to somebody else, who waits for it."""
        os.close(self._pidfd)


def end(pid: int, descriptors: Iterable[int]) -> None:
    """End a child that cannot be held, and close our ends of its streams."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for descriptor in descriptors:
        os.close(descriptor)
    reap(pid)


def reap(pid: int) -> None:
    """Wait for a child that ends soon, unless it is frozen with its container; in a thread if it has not ended yet."""
    with suppress(ChildProcessError):  # something else has waited for it
        if os.waitpid(pid, os.WNOHANG) == (0, 0):
            with suppress(RuntimeError):  # no room for a thread: better a zombie than a program that nobody ends
                threading.Thread(target=os.waitpid, args=(pid, 0), name="reaper", daemon=True).start()
