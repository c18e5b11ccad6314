"""A program on a pseudo-terminal, as a person sits at one."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tests.timing import DEADLINE


class TerminalSession:
    """A process whose stdin, stdout and controlling terminal is a pty of ``size`` (rows, columns)."""

    def __init__(self, command: Sequence[str], size: tuple[int, int] = (24, 80)) -> None:
        self.seen = b""
        self._master, slave = pty.openpty()
        self.resize(*size)
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, preexec_fn=_take_terminal, start_new_session=True
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def close_terminal(self) -> None:
        """Take the terminal away, as a window that is closed does: its session gets SIGHUP."""
        os.close(self._master)
        self._master = os.open(os.devnull, os.O_RDWR)  # for who closes it again

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE)
        os.close(self._master)

    def resize(self, rows: int, columns: int) -> None:
        """Set the size; the kernel sends SIGWINCH to the foreground process group when it changes."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """Type ``text``; "\\r" is the Enter key and "\\x03" Ctrl-C."""
        os.write(self._master, text.encode())

    def expect(self, text: str) -> bytes:
        """Read until ``text`` has appeared, and return what came up to its end; fail at the deadline or the end."""
        wanted = text.encode()
        deadline = time.monotonic() + DEADLINE
        while wanted not in self.seen:
            remaining = deadline - time.monotonic()
            assert remaining > 0, f"no {text!r} within {DEADLINE:g} s, only {self.seen!r}"
            assert self._read(remaining), f"no {text!r} before the end, only {self.seen!r}"
        end = self.seen.index(wanted) + len(wanted)
        before, self.seen = self.seen[:end], self.seen[end:]
        return before

    def wait(self) -> int:
        """Read to the end of the program; return its exit status."""
        deadline = time.monotonic() + DEADLINE
        while self._read(deadline - time.monotonic()):
            assert time.monotonic() < deadline, f"still running after {DEADLINE:g} s: {self.seen!r}"
        return self.process.wait(DEADLINE)

    def _read(self, timeout: float) -> bool:
        if not select.select([self._master], [], [], max(0, timeout))[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other side open any more
            return False
        self.seen += data
        return bool(data)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
