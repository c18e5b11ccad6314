"""A child process of the gateway as a :class:`Process`: it serves a channel from outside the container's processes.

Owns the sizes of the child's pipes, how the child is ended, and the sentence that a user sees when the channel ends
because something killed the child. Knows nothing of what the child does.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from typing import IO, Any

from crunch_sshd.runtimes import Output
from crunch_sshd.runtimes.host_process import PIPE_SIZE, HostProcess
from crunch_sshd.runtimes.host_processes import HANG_UP_STEP

PIPES: dict[str, Any] = {
    "stdin": subprocess.PIPE,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "bufsize": 0,
    # A session of its own: a client must never signal or hang up the gateway's process group.
    "start_new_session": True,
}
"""How :class:`subprocess.Popen` must start such a child."""
WHY = {
    signal.SIGKILL: "has the container ended, or did it run out of memory?",
    signal.SIGSYS: "the container's seccomp profile forbids what it needs",
}


class ChildProcess(HostProcess):
    """The child ``child``, started with :data:`PIPES`; ``name`` is the user's name for what it does."""

    def __init__(self, child: subprocess.Popen[bytes], name: str = "what served this channel") -> None:
        assert child.stdin and child.stdout and child.stderr  # noqa: S101 - PIPES makes all three
        stdin, stdout, stderr = (_taken(pipe) for pipe in (child.stdin, child.stdout, child.stderr))
        for descriptor in (stdin, stdout):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self._name = name
        self._is_ending = False
        super().__init__(child.pid, stdin, {stdout: Output.STDOUT, stderr: Output.STDERR}, self._end, tty=False)
        child.returncode = 0  # from now on only we wait for it: Popen waits by pid, any time, for what it has let go of

    def read(self) -> tuple[Output, bytes | memoryview] | None:
        output = super().read()
        if output is None and not self._is_ending and not self._closed and not self._output_closed:
            self._is_ending = True
            self.wait()
            return self._last_words()
        return output

    def _last_words(self) -> tuple[Output, bytes] | None:
        if self._killed_by is None:
            return None  # it has said all there was to say itself
        number = signal.Signals(self._killed_by)
        why = WHY.get(number, "connect again")
        return Output.STDERR, f"arv-ssh: {self._name} was ended by {number.name}; {why}\n".encode()

    def _end(self) -> None:
        self._is_ending = True
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGKILL):
            with self._lock:
                self._send(number)
            if self._has_ended_within(HANG_UP_STEP):
                return


def _taken(pipe: IO[bytes]) -> int:
    """Return a descriptor of ``pipe`` that does not close with it."""
    with pipe:
        return os.dup(pipe.fileno())
