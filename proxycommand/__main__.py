"""``arvados-client COMMAND``: finds the command and imports only the modules that it needs.

Owns the exit codes and the one line on stderr that every failure becomes.
"""

from __future__ import annotations

import io
import os
import sys

from arv_ssh import __version__
from arv_ssh.client.messages import tell
from arv_ssh.errors import ArvSshError, UsageError

COMMANDS = {
    "shell": "proxycommand.shell",
    "ls": "proxycommand.ls",
    "ssh-config": "proxycommand.ssh_config",
    "forward": "proxycommand.forward",
    "logs": "proxycommand.logs",
    "open": "proxycommand.open_port",
    "doctor": "proxycommand.doctor",
    "speedtest": "proxycommand.speedtest",
    "completion": "proxycommand.completion",
}
"""The module of each command: its ``run`` takes what :mod:`proxycommand.command_line` has read. ssh-proxy is apart."""
FAILED = 255
"""The exit code of ssh itself when it could not get in; every failure of ours counts as that."""


def program() -> int:
    """Be the whole process: an ssh-proxy that has done its work ends at once.

    What Python tidies up at its end, a tenth of ssh-proxy's processor time, the kernel has for nothing.
    """
    status = main()
    if sys.argv[1:2] == ["ssh-proxy"]:
        os._exit(status)  # stdout is flushed, and stderr keeps no line
    return status


def main() -> int:
    """Run the command line; return the exit code."""
    _have_streams()
    try:
        status = _dispatch(sys.argv[1:])
        sys.stdout.flush()
        return status
    except ArvSshError as error:
        message = str(error)
    except BrokenPipeError:
        message = ""  # `arvados-client ls | head -1`: the reader of stdout has had enough; say nothing
        _give_up_stdout()
    except OSError as error:
        message = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        _give_up_stdout()
    except ModuleNotFoundError as error:  # installed without dependencies, where ssh alone was meant to work
        message = f"the Python package {error.name} is not installed; pip install {error.name}"
    except KeyboardInterrupt:
        return 130
    if message:
        tell(message)
    return FAILED


def _have_streams() -> None:
    """Let commands print in any case: to nowhere if a stream is closed, with ``?`` for unencodable characters."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until the process ends
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _give_up_stdout() -> None:
    """Drop unwritten output: the interpreter would try again when it exits, and complain in words of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _dispatch(argv: list[str]) -> int:
    command, rest = (argv[0], argv[1:]) if argv else ("help", [])
    if command == "ssh-proxy":
        from proxycommand import ssh_proxy

        return ssh_proxy.run(rest)
    if command not in COMMANDS:
        return _show(command, argv)
    import importlib

    from proxycommand import command_line

    try:
        options = command_line.command_parsers()[command].read(rest)
    except SystemExit:
        return 0  # after --help; a mistake is a UsageError
    return int(importlib.import_module(COMMANDS[command]).run(options))


def _show(word: str, argv: list[str]) -> int:
    """Print the version or the help of the whole program; what is unknown is another arvados-client's, if anybody's."""
    if word not in ("--version", "version", "--help", "-h", "help"):
        from proxycommand.hand_over import hand_over

        hand_over(argv)
        raise UsageError(f"unknown {'option' if word[:1] == '-' else 'command'} {word!r}; see arvados-client --help")
    from proxycommand import command_line

    described = command_line.parser()
    print(described.format_help() if "h" in word else f"{described.prog} {__version__}\n", end="")
    return 0


if __name__ == "__main__":
    sys.exit(program())
