"""The gateway's end of the ready process: forks of it, each a child of this process (:mod:`crunch_sshd.inside.ready`).

Owns starting the ready process, and starting it anew should it be killed, or one of its forks crash. Knows nothing of
containers: the caller decides what is in a job. Any thread.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import marshal
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

from crunch_sshd.inside import enter, start
from crunch_sshd.inside.ready import NO_GROUP
from crunch_sshd.inside.start import BOOTSTRAP, END_TIMEOUT, ENVIRONMENT, in_memory

CRASHES = {
    signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGTRAP, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS,
}  # fmt: skip
"""By what processes end that did something they were not made to do."""
READY = "crunch_sshd.inside.ready"
ANSWER = 32
"""Bytes of an answer: a pid, or an error's number as a negative one."""
ANSWER_TIMEOUT = 20
"""Seconds for an answer, in which a module may have to be imported; a ready process that is stopped never gives one."""


class Starter:
    """Forks of the ready process, which begins with the first fork, or with :meth:`prepare`.

    ``ready`` is the module that the ready process runs.
    """

    def __init__(self, ready: str = READY) -> None:
        self._module = ready
        self._lock = threading.Lock()
        self._ready: _Ready | None = None

    def start(self, module: str, job: dict[str, Any], streams: Sequence[int]) -> int:
        """Start a process that runs ``module.main(job)``; return its pid.

        It is a child of this process, which must wait for it, and leads a session of its own. It has the descriptors
        that the job names (:func:`enter.handles`), and no others but ``streams``, its standard input, output and error.
        It joins the job's control groups (:class:`crunch_sshd.runtimes.control_groups.Doors`) by itself. Raises OSError
        when nothing has begun.
        """
        with in_memory(marshal.dumps(job)) as words:
            given = [words, *streams, *enter.handles(job)]
            group = job.get("unified")
            return self._fork(f"{module} {NO_GROUP if group is None else given.index(group)}", given)

    def _fork(self, packet: str, descriptors: Sequence[int]) -> int:
        with self._lock:
            for last in (False, True):
                if self._ready is None:
                    self._ready = _Ready(self._module)
                try:
                    return self._ready.fork(packet, descriptors)
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

    def ended(self, number: int) -> None:
        """Hear of the signal that ended a fork, 0 for none. After a crash, a later start begins another ready process.

        All forks of one have the same addresses: who guesses at them to take one over gets one guess.
        """
        if number in CRASHES:
            self.close()

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
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._link.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", ANSWER_TIMEOUT, 0))
        with theirs, _sealed_copy(sys.executable) as program:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-I", "-S", "-c", BOOTSTRAP, start.PACKAGES, module, str(theirs.fileno())],
                executable=f"/proc/self/fd/{program.fileno()}",
                pass_fds=[theirs.fileno(), program.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
                start_new_session=True,
            )  # fmt: skip

    def fork(self, packet: str, descriptors: Sequence[int]) -> int:
        """Return the fork's pid; raise EOFError or ConnectionError when the ready process is of no use any more."""
        try:
            socket.send_fds(self._link, [packet.encode()], descriptors)
            answer = self._answer()
        except BlockingIOError as error:  # how SO_RCVTIMEO reports it
            raise EOFError from error
        if not answer:
            raise EOFError
        pid = int(answer)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return pid

    def _answer(self) -> bytes:
        try:
            return self._link.recv(ANSWER)
        except BlockingIOError:
            self._link.shutdown(socket.SHUT_RD)  # from now on no answer can be given any more
            return self._link.recv(ANSWER, socket.MSG_DONTWAIT)

    def end(self) -> None:
        self._link.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT)
            return
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT)


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


starter = Starter()
"""For all containers: the ready process holds nothing of any."""
atexit.register(starter.close)
