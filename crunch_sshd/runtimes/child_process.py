"""A child process of the gateway as a :class:`Process`: it serves a channel from outside the container's processes.

Owns the sizes of the child's pipes, how the child is ended, and the sentence that a user sees when the channel ends
because something killed the child. Knows nothing of what the child does.
"""

from __future__ import annotations

import signal

from crunch_sshd.inside.starter import starter
from crunch_sshd.runtimes import Output
from crunch_sshd.runtimes.child import Child
from crunch_sshd.runtimes.host_process import HostProcess, widen
from crunch_sshd.runtimes.host_processes import HANG_UP_STEP
from crunch_sshd.ssh.memory import Room

WHY = {
    signal.SIGKILL: "has the container ended, or did it run out of memory?",
    signal.SIGSYS: "the container's seccomp profile forbids what it needs",
}


class ChildProcess(HostProcess):
    """The child ``child``, which has pipes; ``name`` is the user's name for what it does."""

    def __init__(self, child: Child, name: str = "what served this channel") -> None:
        self._name = name
        self._is_ending = False
        try:
            for descriptor in (child.stdin, child.stdout):
                widen(descriptor)
        except BaseException:
            child.end()
            raise
        outputs = {child.stdout: Output.STDOUT, child.stderr: Output.STDERR}
        try:
            super().__init__(child.pid, child.stdin, outputs, self._end, tty=False)
        finally:
            child.let_go()

    def _last_words(self, room: Room) -> tuple[Output, int] | None:
        if self._is_ending or self._closed or self._output_closed:
            return None
        self._is_ending = True
        self.wait()
        if self._killed_by is None:
            return None  # it has said all there was to say itself
        number = signal.Signals(self._killed_by)
        why = WHY.get(number, "connect again")
        sentence = f"arv-ssh: {self._name} was ended by {number.name}; {why}\n"
        return Output.STDERR, room.fill(sentence.encode())

    def _reap(self, pidfd: int) -> None:
        super()._reap(pidfd)
        starter.ended(self._killed_by or 0)

    def _end(self) -> None:
        self._is_ending = True
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGKILL):
            with self._lock:
                self._send(number)
            if self._has_ended_within(HANG_UP_STEP):
                return
