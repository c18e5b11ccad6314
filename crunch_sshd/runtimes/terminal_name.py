"""How a program learns the name of its terminal in the container (SSH_TTY of ssh(1)).

Owns the variable and the lines of shell for a runtime whose engine makes the terminal: its name is known only once
the program's process exists, and then only inside. A container without ``/bin/sh`` or ``tty`` leaves the variable out.
"""

from __future__ import annotations

from collections.abc import Sequence

from crunch_sshd.runtimes import SH

VARIABLE = "SSH_TTY"
NAME_TERMINAL = f'{VARIABLE}=$(tty 2>/dev/null) && export {VARIABLE} || unset {VARIABLE}; unset SHLVL PWD; exec "$@"'
"""For ``sh -c``: names the terminal and becomes the program in the arguments, which may be a shell and is the first."""


def naming(argv: Sequence[str]) -> list[str]:
    """Return the vector with which :data:`SH` names the terminal and becomes ``argv``."""
    return [SH, "-c", NAME_TERMINAL, "sh", *argv]
