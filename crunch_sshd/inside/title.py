"""What ps shows of a fork of the ready process: by its own command line nobody could tell one from the other.

Owns the memory that /proc/PID/cmdline shows. Only the standard library: :mod:`crunch_sshd.process_title`, which is for
processes outside of containers, needs an installed package.
"""

from __future__ import annotations

import ctypes

from crunch_sshd.inside import linux

ARG_START = 48 - 3
"""Where the words of /proc/PID/stat that follow the process's name say where its arguments begin (proc(5))."""


class CommandLine:
    """This process's command line, or nothing where the kernel does not say where it is. Make it before any fork."""

    def __init__(self) -> None:
        self._start, self._size = _place()

    def show(self, name: str, title: str) -> None:
        """Show ``title``, cut to the room there is, as the command line; ``name``, cut to 15 bytes, as its name."""
        linux.set_name(name)
        if self._size:
            shown = title.encode()[: self._size - 1]
            ctypes.memset(self._start, 0, self._size)
            ctypes.memmove(self._start, shown, len(shown))


def _place() -> tuple[int, int]:
    try:
        with open("/proc/self/stat", "rb") as file:
            start, end = map(int, file.read().rpartition(b")")[2].split()[ARG_START : ARG_START + 2])
    except (OSError, ValueError):
        return 0, 0
    return start, end - start
