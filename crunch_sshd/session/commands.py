"""From an SSH request to an argument vector and an environment, as sshd makes them. Pure.

A command always runs as ``SHELL -c COMMAND``, because scp, rsync and git count on it; only in an image without any
shell are its words executed directly, and then only if no shell would change them.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from crunch_sshd.runtimes import SH, Account, StartFailed, Terminal
from crunch_sshd.session import profiles, words
from crunch_sshd.ssh.limits import COMMAND_SIZE

OURS = "SSH_"
"""How the names of variables begin that say what the connection is: only the gateway knows that."""
NO_SHELL = 127
"""The exit status that a shell gives for "command not found"."""
TOO_LONG = 126
"""The exit status that a shell gives for a command that it found and cannot execute."""
SYNTAX_ERROR = 2
"""The exit status that shells give for a quotation without an end."""
NO_UTF8 = "the command has bytes that are not UTF-8"
END = "_"
"""Follows the command, because a command substitution loses the line breaks at its end."""
RUN_BYTES = (
    f'set -- "$1" "$(printf "$2" 2>/dev/null)"; case $2 in *{END}) exec "$1" -c "${{2%{END}}}";; esac; '
    f'echo "arv-ssh: {NO_UTF8}, and {SH} has no printf in this container to make them" >&2; exit {NO_SHELL}'
)
"""Executes the shell ``$1`` with a command from the format ``$2``: the runtimes' APIs carry text only."""
PLAIN = frozenset(range(0x20, 0x7F)) - frozenset(b"%\\-")
"""Bytes that a format of printf holds as they are. (A format that begins with "-" would be an option.)"""
SHOWN = 100
"""Characters of a path of the container in a sentence."""


def login_shell(account: Account) -> list[str]:
    """Return the vector of a login shell; raise :class:`StartFailed` when the image has no shell."""
    if account.shell is None:
        raise StartFailed("this container's image has no shell; give a command, e.g. ssh UUID /program", NO_SHELL)
    return profiles.login_shell(account.shell)


def shell_notice(account: Account) -> str:
    """Return what a user should know about a login shell before it starts, "" if nothing."""
    if not account.missing_shell:
        return ""
    missing = account.missing_shell[:SHOWN]
    return f"using {account.shell}: the shell of {account.name!r}, {missing!r}, is not a program in this container"


def shell_command(account: Account, command: bytes) -> list[str]:
    """Return the vector that runs ``command``; raise :class:`StartFailed` when there is no way to run it."""
    if len(command) > COMMAND_SIZE:
        raise _too_long(len(command))
    if b"\0" in command:
        raise StartFailed("the command has a NUL byte, which no program can be given", NO_SHELL)
    try:
        text = command.decode()
    except UnicodeDecodeError:
        return _bytes_command(account, command)
    return [account.shell, "-c", text] if account.shell is not None else _words(text)


def _bytes_command(account: Account, command: bytes) -> list[str]:
    if account.shell is None or account.sh is None:
        raise StartFailed(f"{NO_UTF8}, and this container's image has no {SH} to make them", NO_SHELL)
    written = _format(command) + END
    if len(written) > COMMAND_SIZE:
        raise _too_long(len(written))
    return [account.sh, "-c", RUN_BYTES, "sh", account.shell, written]


def _too_long(size: int) -> StartFailed:
    return StartFailed(
        f"the command has {size} bytes, and Linux takes at most {COMMAND_SIZE}; copy it into the container as a script",
        TOO_LONG,
    )


def _format(command: bytes) -> str:
    """Return a format that makes printf (POSIX) write ``command``."""
    return "".join(chr(byte) if byte in PLAIN else f"\\{byte:03o}" for byte in command)


def _words(command: str) -> list[str]:
    try:
        found = words.split(command)
    except words.NeedsShell as need:
        raise StartFailed(
            f"this container's image has no shell, which the command needs for {need}; give a program and its "
            "arguments, and quote what they should get as it is", NO_SHELL
        ) from need  # fmt: skip
    except words.Unfinished as error:
        raise StartFailed(
            f"the command cannot be split into words ({error}); the image has no shell", SYNTAX_ERROR
        ) from error
    if not found:
        raise StartFailed("the command is empty, and the image has no shell to run it", NO_SHELL)
    return found


def environment(account: Account, terminal: Terminal | None, requested: dict[str, str]) -> dict[str, str]:
    """Return what is added to the container's own environment; the client's accepted variables come first."""
    own = {"HOME": account.home, "USER": account.name, "LOGNAME": account.name}
    own["SHELL"] = account.shell or SH
    if terminal is not None:
        own["TERM"] = terminal.term
    own["MAIL"] = f"/var/mail/{account.name}"
    return requested | own


def accepted(name: str, patterns: Sequence[str]) -> bool:
    """Say whether a client may set the variable ``name`` (AcceptEnv of sshd_config(5)); never one of :data:`OURS`."""
    return not name.startswith(OURS) and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
