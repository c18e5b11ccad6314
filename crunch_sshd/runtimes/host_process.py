"""A process whose pipes, or whose terminal, and whose exit status are in our own hands.

Owns reading, writing and waiting without anything in between, and that no zombie is left of the process: whoever lets
go of it before it has ended leaves a thread behind that waits. Knows nothing of how the process was started.
"""

from __future__ import annotations

import logging
import os
import select
import termios
import threading
from collections.abc import Callable

from arv_ssh.errors import ArvSshError
from crunch_sshd.runtimes import Output, Process, Terminal, host_processes, terminal_modes
from crunch_sshd.ssh.memory import untouched

logger = logging.getLogger(__name__)

READ_SIZE = 256 * 1024
EVERYTHING = host_processes.ContainerIdentity("")
"""For a child that is no container's, in a session of its own."""


class HostProcess(Process):
    """A child of this process: its pid, its input's and outputs' descriptors, and how its session is ended.

    With a terminal, the master is both. The descriptors belong to this object from now on. ``marks`` are on what a
    signal may be sent to.
    """

    def __init__(
        self,
        pid: int,
        stdin: int,
        outputs: dict[int, Output],
        hang_up: Callable[[], None],
        *,
        tty: bool,
        marks: host_processes.ContainerIdentity = EVERYTHING,
    ) -> None:
        self._marks = marks
        self._hang_up = hang_up
        self._pid = pid
        self._tty = tty
        self._stdin = stdin
        self._stdin_open = True
        self._outputs = outputs
        self._lock = threading.Lock()
        # Read into each time: a new object of that size is made, faulted in and given back for each key.
        self._room = untouched(READ_SIZE)
        self._wake_reader, self._wake_writer = os.pipe()
        self._closed = False
        self._reading = False
        self._poll = select.poll()
        for descriptor in (*outputs, self._wake_reader):
            self._poll.register(descriptor, select.POLLIN)
        os.set_blocking(stdin, False)
        self._status: int | None = None
        self._signal: str | None = None

    def read(self) -> tuple[Output, bytes] | None:
        with self._lock:
            if self._closed:
                return None
            self._reading = True
        try:
            return self._next_output()
        finally:
            with self._lock:
                self._reading = False
                if self._closed:
                    self._release()

    def _next_output(self) -> tuple[Output, bytes] | None:
        while self._outputs:
            ready = {descriptor for descriptor, _ in self._poll.poll()}
            if self._wake_reader in ready:
                return None
            for descriptor in ready:
                data = self._read_one(descriptor)
                if data:
                    return self._outputs[descriptor], data
                if data is not None:
                    self._end_output(descriptor)
        return None

    def _read_one(self, descriptor: int) -> bytes | None:
        try:
            return bytes(self._room[: os.readv(descriptor, [self._room])])
        except BlockingIOError:
            return None
        except OSError:
            return b""  # EIO: the last program on the terminal has ended

    def _end_output(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        del self._outputs[descriptor]
        if not self._tty:  # a terminal's one descriptor is stdin's too, and closed with it
            os.close(descriptor)

    def write(self, data: bytes | memoryview) -> int:
        with self._lock:
            if not self._stdin_open:
                raise BrokenPipeError("the process takes no more input")
            try:
                return os.write(self._stdin, data)
            except BlockingIOError:
                return 0
            except OSError as error:
                raise BrokenPipeError(error.errno, "the process takes no more input") from error

    def wait_writable(self, timeout: float) -> bool:
        with self._lock:
            if not self._stdin_open:
                return True  # write will say so
            poll = select.poll()
            poll.register(self._stdin, select.POLLOUT)
        return bool(poll.poll(timeout * 1000))

    def close_stdin(self) -> None:
        if self._tty:
            return  # a terminal has one end for both directions; sshd leaves it open too
        with self._lock:
            if self._stdin_open:
                self._stdin_open = False
                os.close(self._stdin)

    def resize(self, terminal: Terminal) -> None:
        with self._lock:
            if self._tty and self._stdin_open:
                terminal_modes.resize(self._stdin, terminal)

    def signal(self, name: str) -> None:
        number = host_processes.NAMES.get(name)
        with self._lock:  # so that the pid is not given back, and to somebody else, in between
            if number is not None and self._status is None:
                host_processes.kill(host_processes.signal_targets(self._pid, self._marks), number)

    def wait(self) -> int:
        try:
            os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
            return self._reap()
        except ChildProcessError as error:
            with self._lock:  # another thread may be about to note it
                if self._status is not None:
                    return self._status
            raise ArvSshError("the command's exit status was lost") from error

    def _reap(self) -> int:
        """Give the ended process's pid back. Any number of threads; the first has the status for all."""
        with self._lock:
            if self._status is None:
                _, status = os.waitpid(self._pid, 0)
                code = os.waitstatus_to_exitcode(status)
                self._signal = host_processes.SIGNAL_NAMES.get(-code)
                self._status = code if code >= 0 else 128 - code
            return self._status

    def death_signal(self) -> str | None:
        return self._signal

    def send_break(self) -> bool:
        with self._lock:
            if not self._tty or not self._stdin_open:
                return False
            termios.tcsendbreak(self._stdin, 0)
            return True

    def hang_up(self) -> None:
        self._hang_up()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._reading:
                os.write(self._wake_writer, b"x")  # the reader lets go of the descriptors
            else:
                self._release()
            ended = self._status is not None
        if not ended:
            threading.Thread(target=self._outlive, name="reaper", daemon=True).start()

    def _outlive(self) -> None:
        try:
            self.wait()
        except ArvSshError:
            logger.debug("nobody asked for the exit status, and it was lost")

    def _release(self) -> None:
        """Close all descriptors. Holds the lock."""
        if self._stdin_open:
            self._stdin_open = False
            os.close(self._stdin)
        for descriptor in () if self._tty else self._outputs:
            os.close(descriptor)
        self._outputs = {}
        os.close(self._wake_reader)
        os.close(self._wake_writer)
