"""Where a line for the user goes: stderr, and ssh's own stderr where ssh has led ours to /dev/null.

With ControlPersist ssh gives its ProxyCommand /dev/null for stderr, lest a program that outlives the session hold the
terminal. A reason would be lost then; so it is written to the descriptor of the ssh that waits for us, which is closed
again at once. Owns the one-line shape of messages. Imports nothing that ssh-proxy does not have anyway.
"""

from __future__ import annotations

import os
import sys

PREFIX = "arvados-client: "


def tell(message: str) -> None:
    """Write ``message`` as one line for the user; who has closed stderr is told nothing."""
    line = f"{PREFIX}{' '.join(message.split())}\n".encode(errors="backslashreplace")
    descriptor = open_stderr()
    try:
        while line:
            line = line[os.write(descriptor, line) :]
    except OSError:
        pass  # nobody reads it any more; the exit code still says it
    finally:
        close_stderr(descriptor)


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
