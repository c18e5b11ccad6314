"""A process whose pipes or terminal, and whose exit status, we hold ourselves.

Owns reading, writing and waiting without anything in between, and ensures that the process leaves no zombie: letting
go of it before it has ended leaves a thread behind to wait for it. A pidfd (pidfd_open(2)) holds the process, so that
nothing meant for it can reach another process with the same pid. Knows nothing of how the process was started.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from arv_ssh.errors import ArvSshError
from crunch_sshd.runtimes import Output, Process, Terminal, child, host_processes, terminal_modes
from crunch_sshd.ssh.memory import Room

logger = logging.getLogger(__name__)

PIPE_SIZE = 1024 * 1024
"""Bytes of kernel buffer in each pipe (fcntl(2) F_SETPIPE_SZ); fewer switches between the program and us."""
EVERYTHING = host_processes.ContainerIdentity("")
"""For a child that belongs to no container, in a session of its own."""


class HostProcess(Process):
    """A child of this process: its pid, the descriptors of its input and outputs, and how to end its session.

    With a terminal, the master is both. The descriptors belong to this object from now on, and nothing else may wait
    for the child. ``identity`` says what a signal may be sent to. Raises OSError where there is no room to hold the
    child, which is then ended.
    """

    def __init__(
        self,
        pid: int,
        stdin: int,
        outputs: dict[int, Output],
        hang_up: Callable[[], None],
        *,
        tty: bool,
        identity: host_processes.ContainerIdentity = EVERYTHING,
    ) -> None:
        self._identity = identity
        self._hang_up = hang_up
        self._pid = pid
        self._tty = tty
        self._stdin = stdin
        self._stdin_open = True
        self._outputs = outputs
        self._lock = threading.Lock()
        self._closed = False
        self._reading = False
        self._released = False
        self._output_closed = False
        self._last = -1
        self._flows = False  # whether the last read filled one area; for less, one is quicker read into than all
        self._status: int | None = None
        self._killed_by: int | None = None
        self._dumped_core = False
        self._holders = 0
        self._is_lost = False
        with ExitStack() as failed:
            failed.callback(child.end, pid, {stdin, *outputs})
            self._wake_reader, self._wake_writer = os.pipe()
            failed.callback(os.close, self._wake_reader)
            failed.callback(os.close, self._wake_writer)
            self._poll = select.poll()
            for descriptor in (self._wake_reader, *outputs):  # poll(2) reports them in this order
                self._poll.register(descriptor, select.POLLIN)
            os.set_blocking(stdin, False)
            self._pidfd = _pidfd(pid)
            failed.pop_all()

    def read(self, room: Room) -> tuple[Output, int] | None:
        # Set before _closed is looked at, while close() does the two the other way round: one sees the other's.
        self._reading = True
        try:
            while not self._closed:
                if self._output_closed:
                    self._end_stdout()
                if not self._outputs:
                    break
                (descriptor, _), *others = self._poll.poll()
                if others and descriptor == self._last:
                    descriptor = others[0][0]
                if descriptor == self._wake_reader:
                    os.read(descriptor, 1)
                    continue
                try:
                    size = os.readv(descriptor, room.areas if self._flows else room.first)
                except BlockingIOError:
                    continue
                except OSError:
                    size = 0  # EIO: the last program on the terminal has ended
                if size:
                    self._flows, self._last = size >= room.size, descriptor
                    return self._outputs[descriptor], size
                self._end_output(descriptor)
        finally:
            self._reading = False
            if self._closed:
                with self._lock:
                    self._release()
        return self._last_words(room)

    def _last_words(self, room: Room) -> tuple[Output, int] | None:
        """Return what :meth:`read` says once there is no output any more."""
        return None

    def _end_stdout(self) -> None:
        for descriptor in [one for one, stream in self._outputs.items() if stream is Output.STDOUT]:
            self._end_output(descriptor)

    def _end_output(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        if not self._tty:  # a terminal's one descriptor is stdin's too, and closed with it
            os.close(descriptor)
        del self._outputs[descriptor]

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

    def close_output(self) -> None:
        with self._lock:
            if not self._closed and not self._output_closed:
                self._output_closed = True
                if self._reading:
                    os.write(self._wake_writer, b"x")  # the reader lets go of the descriptor

    def resize(self, terminal: Terminal) -> None:
        with self._lock:
            if self._tty and self._stdin_open:
                terminal_modes.resize(self._stdin, terminal)

    def signal(self, name: str) -> None:
        number = host_processes.NAMES.get(name)
        with self._lock:  # so that the pid is not freed in between and given to another process
            if number is not None and self._status is None:
                targets = host_processes.signal_targets(self._pid, self._identity)
                if self._pid in targets:
                    targets.remove(self._pid)
                    self._send(number)
                host_processes.kill(targets, number)

    def _send(self, number: int) -> None:
        """Send a signal to the process itself, unless it has been waited for. Holds the lock."""
        if self._pidfd is not None and not self._is_over():
            signal.pidfd_send_signal(self._pidfd, number)  # a zombie takes it without complaint

    def wait(self) -> int:
        with self._held() as pidfd:
            if pidfd is not None:
                try:
                    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
                    self._reap(pidfd)
                except ChildProcessError:
                    self._is_lost = self._status is None  # something else has waited for it
        if self._status is None:
            raise ArvSshError("the command's exit status was lost")
        return self._status

    def _reap(self, pidfd: int) -> None:
        """Give the ended process's pid back. Any number of threads may call; the first gets the status for all."""
        with self._lock:
            if self._status is None and (found := os.waitid(os.P_PIDFD, pidfd, os.WEXITED)) is not None:
                if found.si_code == os.CLD_EXITED:
                    self._status = found.si_status
                else:
                    self._killed_by = found.si_status
                    self._dumped_core = found.si_code == os.CLD_DUMPED
                    self._status = 128 + found.si_status

    def _has_ended_within(self, seconds: float) -> bool:
        with self._held() as pidfd:
            if pidfd is None:
                return True
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            return bool(poll.poll(seconds * 1000))

    @contextmanager
    def _held(self) -> Iterator[int | None]:
        """Yield the pidfd, which stays open for the block; None when the process has been waited for."""
        with self._lock:
            pidfd = None if self._is_over() else self._pidfd
            self._holders += pidfd is not None
        try:
            yield pidfd
        finally:
            with self._lock:
                self._holders -= pidfd is not None
                if self._is_over() and self._pidfd is not None and not self._holders:
                    os.close(self._pidfd)
                    self._pidfd = None

    def _is_over(self) -> bool:
        return self._status is not None or self._is_lost

    def death_signal(self) -> str | None:
        if self._killed_by is None:
            return None
        return host_processes.SIGNAL_NAMES.get(self._killed_by, host_processes.OTHER_SIGNAL)

    def dumped_core(self) -> bool:
        return self._dumped_core

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
            logger.debug("the exit status was lost; no one had asked for it")

    def _release(self) -> None:
        """Close all descriptors, once. Holds the lock."""
        if self._released:
            return
        self._released = True
        if self._stdin_open:
            self._stdin_open = False
            os.close(self._stdin)
        for descriptor in () if self._tty else self._outputs:
            os.close(descriptor)
        self._outputs = {}
        os.close(self._wake_reader)
        os.close(self._wake_writer)


def widen(pipe: int) -> None:
    """Give a pipe PIPE_SIZE bytes, unless its user has no right to that many more (pipe(7), pipe-user-pages-soft)."""
    with suppress(PermissionError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)


def _pidfd(pid: int) -> int | None:
    """Return a descriptor of a child; None when something else has waited for it already."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
