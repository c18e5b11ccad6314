"""Where a line for the user goes: stderr, and ssh's own stderr where ssh has led ours to /dev/null.

With ControlPersist ssh gives its ProxyCommand /dev/null for stderr, lest a program that outlives the session hold the
terminal. A reason would be lost then; so it is written to the descriptor of the ssh that waits for us, which is closed
again at once. Owns the one-line shape of messages. Imports nothing that ssh-proxy does not have anyway.
"""

from __future__ import annotations

import os
import sys
import time

PREFIX = "arvados-client: "


def tell(message: str) -> None:
    """Write ``message`` as one line for the user; say nothing if stderr is closed."""
    line = f"{PREFIX}{printable(' '.join(message.split()))}\n".encode(errors="backslashreplace")
    descriptor = open_stderr()
    try:
        while line:
            line = line[os.write(descriptor, line) :]
    except OSError:
        pass  # the reader has gone; the exit code still says it
    finally:
        close_stderr(descriptor)


def printable(text: str) -> str:
    """Return ``text`` without what a terminal would obey: names and reasons are others' to choose."""
    return "".join(letter if letter.isprintable() or "\ud800" <= letter <= "\udfff" else "?" for letter in text)


def open_stderr() -> int:
    """Return the descriptor that reaches the user; give it to :func:`close_stderr` soon."""
    if _is_null(2) and _started_by_ssh():
        for path in (f"/proc/{os.getppid()}/fd/2", "/dev/tty"):
            try:
                return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY)
            except OSError:
                continue  # another user's terminal after su, or a system without /proc
    return 2


def close_stderr(descriptor: int) -> None:
    """Close what :func:`open_stderr` opened."""
    if descriptor > 2:
        os.close(descriptor)


def _is_null(descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(os.devnull))
    except OSError:
        return False


def _started_by_ssh() -> bool:
    """Say whether the parent is ssh itself: another program's parent has redirected us because it meant to."""
    try:
        with open(f"/proc/{os.getppid()}/comm", "rb") as file:
            return file.read().strip() == b"ssh"
    except OSError:
        return sys.platform == "darwin"  # no /proc; what is left is the terminal


class Progress:
    """How long something takes, on the user's stderr: one line that changes on a terminal, else a line now and then."""

    FIRST_REPEAT = 60.0
    """Seconds after which a line is repeated where there is no terminal; each further time it is twice as long."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._state = ""
        self._next = 0.0
        self._repeat = self.FIRST_REPEAT
        self._line_open = False

    def show(self, text: str, state: str) -> None:
        """Show ``text`` and the time that went by; without a terminal only for a new ``state`` or after long."""
        elapsed = time.monotonic() - self._started
        descriptor = open_stderr()
        try:
            if os.isatty(descriptor):
                width = os.get_terminal_size(descriptor).columns or 80
                line = printable(f"{PREFIX}{text} ({elapsed:.0f} s)")[: width - 1]
                os.write(descriptor, f"\r{line}\x1b[K".encode(errors="backslashreplace"))
                self._line_open = True
            elif state != self._state or elapsed >= self._next:
                self._repeat = self.FIRST_REPEAT if state != self._state else 2 * self._repeat
                self._state, self._next = state, elapsed + self._repeat
                line = printable(f"{PREFIX}{text} ({elapsed:.0f} s)")
                os.write(descriptor, f"{line}\n".encode(errors="backslashreplace"))
        except OSError:
            pass  # the terminal has gone; the wait goes on
        finally:
            close_stderr(descriptor)

    def done(self) -> None:
        """Clear the line on a terminal: what comes next begins where it stood."""
        if self._line_open:
            self._line_open = False
            descriptor = open_stderr()
            try:
                os.write(descriptor, b"\r\x1b[K")
            except OSError:
                pass  # the terminal has gone
            finally:
                close_stderr(descriptor)
