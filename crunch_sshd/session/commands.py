"""From an SSH request to an argument vector and an environment, as sshd makes them. Pure.

A command always runs as ``SHELL -c COMMAND``, because scp, rsync and git count on it; only in an image without any
shell are its words executed directly.
"""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Sequence

from crunch_sshd.runtimes import Account, StartFailed, Terminal
from crunch_sshd.session import profiles

OURS = "SSH_"
"""How the names of variables begin that say what the connection is: only the gateway knows that."""
NO_SHELL = 127
"""The exit status that a shell gives for "command not found"."""


def login_shell(account: Account) -> list[str]:
    """Return the vector of a login shell; raise :class:`StartFailed` when the image has no shell."""
    if account.shell is None:
        raise StartFailed("this container's image has no shell; give a command, e.g. ssh UUID /program", NO_SHELL)
    return profiles.login_shell(account.shell)


def shell_command(account: Account, command: bytes) -> list[str]:
    """Return the vector that runs ``command``, which may hold any bytes but NUL."""
    text, encodable = _decode(command)
    if account.shell is not None:
        # The runtime's API carries text. Other bytes pass through as octal escapes (POSIX printf).
        return [account.shell, "-c", text if encodable else f'eval "$(printf \'{_octal(command)}\')"']
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise StartFailed(f"the command cannot be split into words ({error}); the image has no shell", 2) from error
    if not words:
        raise StartFailed("the command is empty, and the image has no shell to run it", NO_SHELL)
    return words


def _decode(command: bytes) -> tuple[str, bool]:
    try:
        return command.decode(), True
    except UnicodeDecodeError:
        return command.decode("utf-8", "replace"), False


def _octal(command: bytes) -> str:
    return "".join(f"\\{byte:03o}" for byte in command)


def environment(account: Account, terminal: Terminal | None, requested: dict[str, str]) -> dict[str, str]:
    """Return what is added to the container's own environment; the client's accepted variables come first."""
    own = {"HOME": account.home, "USER": account.name, "LOGNAME": account.name}
    own["SHELL"] = account.shell or "/bin/sh"
    if terminal is not None:
        own["TERM"] = terminal.term
    own["MAIL"] = f"/var/mail/{account.name}"
    return requested | own


def accepted(name: str, patterns: Sequence[str]) -> bool:
    """Say whether a client may set the variable ``name`` (AcceptEnv of sshd_config(5)); never one of :data:`OURS`."""
    return not name.startswith(OURS) and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
