"""Stopping a container's first process on its way out, with everything of the container still there (ptrace(2)).

Owns the tracing: a process stopped at PTRACE_EVENT_EXIT has its exit status, and still its memory, files and
namespaces. So the engine and the kernel take the container as running: its other processes live on, and new ones can
enter. Nothing is put into the container. When the tracing thread or this process ends, the kernel lets the traced
process go on, so no container outlives its crunch-run. Knows nothing of why a container is kept up, and how long.

Why no program of ours that waits in the container: its image may have nothing to run one with, and it would be another
first process. Why not the namespaces alone: a pid namespace whose first process has ended takes no new processes
(pid_namespaces(7)), and the engine counts the container as stopped. The price: nobody else can trace the first process.
Where that is the engine's init, and not the program itself, debuggers in the container work as before, and a program
that crashes is kept up too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from crunch_sshd.runtimes import host_processes

PTRACE_CONT, PTRACE_DETACH, PTRACE_GETEVENTMSG, PTRACE_SEIZE, PTRACE_LISTEN = 7, 17, 0x4201, 0x4206, 0x4208
PTRACE_O_TRACEEXEC, PTRACE_O_TRACEEXIT = 0x10, 0x40
PTRACE_EVENT_EXEC, PTRACE_EVENT_EXIT, PTRACE_EVENT_STOP = 4, 6, 128
WALL = 0x40000000
"""__WALL of waitpid(2): tracees that are not children are waited for, too."""

LOOK = 0.002
"""Seconds between looks for the first process: it exists for tens of milliseconds before it executes the program."""
START_PATIENCE = 1.0
"""Seconds that a process which ends before it has executed anything waits for word that the container did start."""
FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS)
"""The kernel lets a first process survive these while it is traced (force_sig_info_to_task), and repeat the faulty
instruction for ever."""
WATCH = 0.25
"""Seconds between looks whether a stopped process has been killed from outside."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


class FirstProcess:
    """Finds the first process of a container while the engine makes it.

    ``container_id`` gives the engine's full id of the container, which is in the names of its control groups.
    """

    def __init__(self, container_id: Callable[[], str]) -> None:
        self._id = container_id
        self._others: set[str] = set()

    def look(self) -> int | None:
        """Return its pid on this host, None as long as there is none. Cheap to ask again: old processes are known."""
        entries = {entry for entry in os.listdir(host_processes.PROC) if entry.isdigit()}
        self._others &= entries
        for entry in entries - self._others:
            pid = int(entry)
            if host_processes.pid_inside(pid) != 1:
                self._others.add(entry)
            elif self._id() in host_processes.control_groups(pid):
                return pid
        return None


class ExitStop:
    """Stops the process that ``find`` returns, once it does, where it fails. One use; any thread.

    ``stopped`` is called on the tracing thread once it stands; then ``status`` is its exit status (128 + n after
    signal n). A process that succeeds is not stopped. A stopped one takes no signals, since Linux 6.0 not even SIGKILL:
    who hears that it should end calls :meth:`release`. ``failure`` says why no process could be traced, "" if one is.
    """

    def __init__(self, find: Callable[[], int | None], stopped: Callable[[], Any]) -> None:
        self._find = find
        self._stopped = stopped
        self._has_started = threading.Event()
        self._released = threading.Event()
        self._executed = False
        self.status: int | None = None
        self.failure = ""

    def start(self) -> None:
        """Begin to look for the process; returns at once."""
        threading.Thread(target=self._run, name="exit-stop", daemon=True).start()

    def started(self) -> None:
        """Say that the process exists by now, or did: one that cannot be found any more is not looked for again."""
        self._has_started.set()

    def release(self) -> None:
        """Let the process end, now or whenever it wants to."""
        self._released.set()

    def _run(self) -> None:
        try:
            pid = self._await()
            if pid is not None:
                _ptrace(PTRACE_SEIZE, pid, PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT)
                self._attend(pid)
        except ProcessLookupError:
            self.failure = "its program ended before it could be watched"
        except OSError as error:
            self.failure = f"its program could not be watched: {error.strerror}"

    def _await(self) -> int | None:
        while not self._released.is_set():
            last = self._has_started.is_set()
            pid = self._find()
            if pid is not None:
                return pid
            if last:
                self.failure = "its first process was not found in time on crunch-run's host"
                return None
            time.sleep(LOOK)
        return None

    def _attend(self, pid: int) -> None:
        """Let the process go on from every stop but its last."""
        while True:
            _, status = os.waitpid(pid, WALL)
            if not os.WIFSTOPPED(status):
                return
            number, happened = os.WSTOPSIG(status), status >> 16
            if happened == PTRACE_EVENT_EXIT:
                return self._at_exit(pid)
            if not happened and number in FAULTS and not _catches(pid, number):
                name = signal.Signals(number).name
                self.failure = f"its program was the container's first process, and crashed ({name})"
                return _ptrace(PTRACE_DETACH, pid, number)
            self._executed = self._executed or happened == PTRACE_EVENT_EXEC
            if happened == PTRACE_EVENT_STOP and number != signal.SIGTRAP:
                _ptrace(PTRACE_LISTEN, pid)  # stopped as by SIGSTOP: it stays so until SIGCONT
            else:
                _ptrace(PTRACE_CONT, pid, 0 if happened else number)

    def _at_exit(self, pid: int) -> None:
        message = ctypes.c_ulong()
        _ptrace(PTRACE_GETEVENTMSG, pid, ctypes.addressof(message))
        code = os.waitstatus_to_exitcode(message.value)
        if code and self._has_begun() and not self._released.is_set():
            self.status = code if code > 0 else 128 - code
            self._stopped()
            while not self._released.wait(WATCH):
                if os.waitpid(pid, WALL | os.WNOHANG)[0]:
                    return  # killed from outside; until the tracer has seen that, its parent is not told
        with suppress(ProcessLookupError):  # the same
            _ptrace(PTRACE_DETACH, pid)

    def _has_begun(self) -> bool:
        """Say whether it was the program that ended, and not the runtime, which has yet to tell its own failure."""
        return self._executed or self._has_started.wait(START_PATIENCE)


def _catches(pid: int, number: int) -> bool:
    """Say whether a process has a handler for a signal (SigCgt of proc(5))."""
    lines = (host_processes.PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace").splitlines()
    caught = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    if _libc.ptrace(request, pid, None, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
