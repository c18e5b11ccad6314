"""Subsystems (RFC 4254 §6.5): the table from a name to its server, and the start of the built-in SFTP server.

A subsystem is a :class:`Process` like any other, so the session's pump, exit status and clean-up know nothing of it.
"""

from __future__ import annotations

from dataclasses import replace

from arv_ssh.config.session_options import INTERNAL_SFTP
from arv_ssh.errors import Unavailable
from crunch_sshd.inside.system_calls import FILE_SERVER
from crunch_sshd.runtimes import Command, Process, Runtime, StartFailed, entry
from crunch_sshd.runtimes.child_process import ChildProcess
from crunch_sshd.session import commands
from crunch_sshd.ssh import threads

SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/sftp-server", "/usr/lib/ssh/sftp-server",
           "/usr/libexec/openssh/sftp-server")  # fmt: skip
"""Where Debian, Alpine and BSD, Arch, and Fedora install OpenSSH's sftp-server."""
NOT_FOUND = 127
MISSING = (
    "sftp needs an sftp-server in this container's image, since the gateway may not enter the container's namespaces; "
    "install openssh-sftp-server in the image, or have crunch-run started as root"
)
FALLBACK = (
    f'for server in {" ".join(SERVERS)}; do [ -x "$server" ] && exec "$server"; done; '
    f'echo "arv-ssh: {MISSING}" >&2; exit {NOT_FOUND}'
)
MODULE = "crunch_sshd.inside.sftp.__main__"


def start(line: str, command: Command, runtime: Runtime) -> Process:
    """Start the server that the table's ``line`` names as ``command``, whose argument vector is replaced.

    Raises :class:`StartFailed` or :class:`arv_ssh.errors.ArvSshError`.
    """
    if line == INTERNAL_SFTP:
        return _start_sftp(command, runtime)
    return runtime.start(replace(command, argv=commands.shell_command(command.account, line.encode())))


def _start_sftp(command: Command, runtime: Runtime) -> Process:
    container = runtime.host()
    if container is None:
        return _start_image_sftp(command, runtime)
    arguments = [command.directory or runtime.directory(), command.account.home]
    try:
        child = entry.enter(container, command.account, MODULE, FILE_SERVER, arguments, pipes=True)
        return ChildProcess(child, "the file server")
    except threads.NO_ROOM as error:
        raise Unavailable(f"the container cannot be entered for sftp: {threads.reason(error)}") from error


def _start_image_sftp(command: Command, runtime: Runtime) -> Process:
    """Start the image's own sftp-server, for a gateway without the privilege to bring its own."""
    if command.account.sh is None:
        raise StartFailed(MISSING, NOT_FOUND)
    return runtime.start(replace(command, argv=[command.account.sh, "-c", FALLBACK], terminal=None))
