"""``arvados-client COMMAND``: finds the command and imports nothing but what that one needs.

Owns the exit codes and the one line on stderr that every failure becomes.
"""

from __future__ import annotations

import io
import os
import sys

from arv_ssh.client.messages import tell
from arv_ssh.errors import ArvSshError, UsageError

USAGE = """usage: arvados-client COMMAND [OPTIONS]

  shell [U@]UUID [COMMAND...]  open a shell in a running container, or run a command there
  ls [--json]                  list running and waiting containers, and whether you can enter them
  ssh-config [--install]       print (or install) the ssh_config block that makes `ssh UUID`, scp and rsync work
  forward UUID LOCAL:REMOTE... forward local ports to a running container, until Ctrl-C
  doctor [UUID]                check the connection step by step, and say what to do about the first failure
  speedtest UUID               measure the connection to a container: connect, echo, MB/s in each direction
  completion bash|zsh          print the completions of that shell
  ssh-proxy HOST               the ProxyCommand, which ssh runs itself
  --version                    print the version

examples:
  arvados-client ssh-config --install       once; from then on ssh UUID, scp, sftp and rsync work
  arvados-client shell zzzzz-dz642-abcdeabcdeabcde
  arvados-client COMMAND --help             the options of a command, and examples
"""
FAILED = 255
"""What ssh itself ends with when it could not get in; every failure of ours is one of those."""


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
        message = ""  # `arvados-client ls | head -1`: who read stdout has had enough, and need not be told
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
    """Let commands print in any case: nowhere where a stream is closed, ``?`` for what a terminal's encoding lacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until the process ends
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _give_up_stdout() -> None:
    """Drop what could not be written: the interpreter would try again at its end, and complain in its own words."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _dispatch(argv: list[str]) -> int:
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if rest[:1] in (["--help"], ["-h"]) and _show_help(command):
        return 0
    if command == "ssh-proxy":
        from proxycommand.ssh_proxy import run

        return run(rest)
    if command == "shell":
        from proxycommand.shell import run

        return run(rest)
    if command == "ssh-config":
        from proxycommand.ssh_config import run

        return run(rest)
    if command == "doctor":
        from proxycommand.doctor import run

        return run(rest)
    if command == "speedtest":
        from proxycommand.speedtest import run

        return run(rest)
    if command == "forward":
        from proxycommand.forward import run

        return run(rest)
    if command == "completion":
        from proxycommand.completion import run

        return run(rest)
    if command == "ls":
        from proxycommand.ls import run

        return run(rest)
    if command in ("--version", "version"):
        from arv_ssh import __version__

        print(f"arvados-client {__version__}")
        return 0
    if command in ("--help", "-h", "help"):
        print(USAGE, end="")
        return 0
    raise UsageError(f"unknown command {command!r}; see arvados-client --help")


def _show_help(command: str) -> bool:
    """Print the help of ``command``; say whether there is such a command."""
    from proxycommand.command_line import command_parsers

    found = command_parsers().get(command)
    if found:
        print(found.format_help(), end="")
    return found is not None


if __name__ == "__main__":
    sys.exit(main())
