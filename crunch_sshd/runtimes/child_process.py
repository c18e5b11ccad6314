"""A child process of the gateway as a :class:`Process`: what serves a channel from outside the container's processes.

Owns its pipes' sizes and how it is ended. Knows nothing of what it does.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from typing import IO, Any

from crunch_sshd.runtimes import Output
from crunch_sshd.runtimes.host_process import HostProcess
from crunch_sshd.runtimes.host_processes import HANG_UP_STEP, SIGNAL_NAMES

PIPE_SIZE = 1024 * 1024
"""Bytes of kernel buffer in stdin's and stdout's pipe (fcntl(2) F_SETPIPE_SZ), so that both sides move large pieces."""
PIPES: dict[str, Any] = {
    "stdin": subprocess.PIPE,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "bufsize": 0,
    # A session of its own: what a client signals or hangs up must never be the gateway's process group.
    "start_new_session": True,
}
"""How :class:`subprocess.Popen` must start such a child."""


class ChildProcess(HostProcess):
    """The child ``child``, started with :data:`PIPES`."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin and child.stdout and child.stderr  # noqa: S101 - PIPES makes all three
        stdin, stdout, stderr = (_taken(pipe) for pipe in (child.stdin, child.stdout, child.stderr))
        self._child = child
        for descriptor in (stdin, stdout):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        super().__init__(child.pid, stdin, {stdout: Output.STDOUT, stderr: Output.STDERR}, self._end, tty=False)

    def wait(self) -> int:
        code = self._child.wait()  # not waitpid: the child's status may be had by _end already
        self._status = code if code >= 0 else 128 - code
        self._signal = SIGNAL_NAMES.get(-code)
        return self._status

    def _end(self) -> None:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGKILL):
            self._child.send_signal(number)  # nothing when it has ended
            try:
                self._child.wait(HANG_UP_STEP)
            except subprocess.TimeoutExpired:
                continue
            return


def _taken(pipe: IO[bytes]) -> int:
    """Return a descriptor of ``pipe`` that does not close with it."""
    with pipe:
        return os.dup(pipe.fileno())
