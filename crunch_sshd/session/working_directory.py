"""Where a session's programs start: in the container's working directory, or in the user's home. Pure.

Owns the choice, which a site makes and a user may change, and what becomes of a session whose directory is gone:
it goes on in ``/``, as with sshd. Knows the container only as a :class:`Runtime`.
"""

from __future__ import annotations

from dataclasses import replace

from arv_ssh.config.session_options import WORKING_DIRECTORIES
from crunch_sshd.runtimes import Account, Command, Runtime, StartFailed

VARIABLE = "ARV_CWD"
"""The variable with which a client asks for a directory. It is accepted whatever AcceptEnv says, and never set."""
MISUSE = 2
"""The exit status that a shell gives for a wrong argument."""
SHOWN = 40
"""Characters of a wrong value that the message repeats."""


def choose(wanted: str, account: Account) -> str | None:
    """Return the directory for :attr:`Command.directory`; raise :class:`StartFailed` for a word that is none."""
    if wanted not in WORKING_DIRECTORIES:
        raise StartFailed(f"{VARIABLE} is {wanted[:SHOWN]!r}; it must be {' or '.join(WORKING_DIRECTORIES)}", MISUSE)
    return account.home if wanted == "home" else None


def settle(command: Command, runtime: Runtime) -> tuple[Command, str]:
    """Return the command with a directory that it can start in, and a sentence if that is not the one it was to be."""
    try:
        directory = command.directory or runtime.directory()
        reason = runtime.obstacle(directory, command.account)
    except OSError:
        return command, ""  # the container is gone, and the start says so
    if not reason:
        return command, ""
    which = "home directory" if command.directory else "working directory"
    return replace(command, directory="/"), f"could not chdir to {which} {directory}: {reason}; going on in /"
