"""The gateway's end of the ready process: forks of it, each a child of this process (:mod:`crunch_sshd.inside.ready`).

Owns starting the ready process, and starting it anew should it be killed. Knows nothing of containers: the caller
decides what is in a job. Any thread.
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from crunch_sshd.inside.start import BOOTSTRAP, END_TIMEOUT, ENVIRONMENT, JOINED, PACKAGES, in_memory, join

READY = "crunch_sshd.inside.ready"
ANSWER = 32
"""Bytes of an answer: a pid, or an error's number as a negative one."""


class Starter:
    """Forks of the ready process, which begins with the first fork, or with :meth:`prepare`.

    ``module`` is what the ready process runs.
    """

    def __init__(self, module: str = READY) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._ready: _Ready | None = None

    def start(
        self, job: Mapping[str, Any], descriptors: Sequence[int], streams: Sequence[int], control_groups: Iterable[int]
    ) -> int:
        """Start a process for ``job`` that has ``descriptors``, by which the job names them; return its pid.

        It is a child of this process, which must wait for it. ``streams`` become its standard input, output and error.
        ``control_groups`` are the open ``cgroup.procs`` files of those that it joins. Raises OSError, or
        :class:`arv_ssh.errors.Unavailable` when it cannot join.
        """
        joined, tell = os.pipe()
        try:
            with in_memory(marshal.dumps({**job, "joined": joined, "descriptors": [joined, *descriptors]})) as words:
                pid = self._fork([words, *streams, joined, *descriptors])
            try:
                join(pid, control_groups)
                os.write(tell, JOINED)
            except BaseException:
                os.close(tell)
                tell = -1  # it reads the end and ends itself, once it is not frozen
                threading.Thread(target=os.waitpid, args=(pid, 0), name="start", daemon=True).start()
                raise
        finally:
            os.close(joined)
            if tell >= 0:
                os.close(tell)
        return pid

    def _fork(self, descriptors: Sequence[int]) -> int:
        with self._lock:
            for last in (False, True):
                if self._ready is None:
                    self._ready = _Ready(self._module)
                try:
                    return self._ready.fork(descriptors)
                except (ConnectionError, EOFError):
                    self._ready.end()
                    self._ready = None
                    if last:
                        raise OSError(errno.ECHILD, "the process that starts programs ended") from None
        raise AssertionError("unreachable")

    def prepare(self) -> None:
        """Start the ready process now, so that the first fork need not wait for it. Raises OSError."""
        with self._lock:
            if self._ready is None:
                self._ready = _Ready(self._module)

    def close(self) -> None:
        """End the ready process; a later start begins another."""
        with self._lock:
            if self._ready is not None:
                self._ready.end()
                self._ready = None


class _Ready:
    """One ready process."""

    def __init__(self, module: str) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, _sealed_copy(sys.executable) as program:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-I", "-S", "-c", BOOTSTRAP, PACKAGES, module, str(theirs.fileno())],
                executable=f"/proc/self/fd/{program.fileno()}",
                pass_fds=[theirs.fileno(), program.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
                start_new_session=True,
            )  # fmt: skip

    def fork(self, descriptors: Sequence[int]) -> int:
        socket.send_fds(self._link, [b"f"], descriptors)
        answer = self._link.recv(ANSWER)
        if not answer:
            raise EOFError
        pid = int(answer)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return pid

    def end(self) -> None:
        self._link.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT)
            return
        self._process.kill()
        self._process.wait()


def _sealed_copy(path: str) -> IO[bytes]:
    """Return the program ``path`` in memory, where it can no longer be written to.

    The file that a child executes stays within the container's reach as /proc/PID/exe, also for a container that
    executes that very file; a container's root could overwrite the host's own (CVE-2019-5736).
    """
    sealed = open(os.memfd_create("python", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "rb")
    with open(path, "rb") as source, open(os.dup(sealed.fileno()), "wb") as copy:
        shutil.copyfileobj(source, copy, 1024 * 1024)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, seals)
    return sealed
