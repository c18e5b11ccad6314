"""The command line of ``arvados-client``, described for argparse: for --help, completions and man pages.

Commands read their arguments by hand (:mod:`proxycommand.arguments`), for ssh-proxy's sake; this module is imported
only to describe them. A test holds that both know the same options.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from arv_ssh import __version__

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

UUID_HELP = "UUID of a container or of a container request, or NAME.arv for your newest running request of that name"
_UUID = "zzzzz-dz642-abcdeabcdeabcde"

_SETTINGS = ("--settings", "FILE", "take ARVADOS_API_HOST and ARVADOS_API_TOKEN from FILE")
_USER = ("--user", "NAME", "log in as this user of the container (default: the image's own)")
_KNOWN_HOSTS = ("--known-hosts-dir", "DIR", "directory for the host keys, one file per host")
_DETACH = ("--detach-keys", "KEYS", "keys that detach from the session, such as ctrl-p,ctrl-q (default: none)")
_CLUSTER = ("--cluster", "ID", "use ~/.config/arvados/ID.conf, the settings of the cluster ID")
_JSON = ("--json", "", "print JSON")
_WAIT = ("--wait", "", "wait for a container that is Queued or Locked, with a progress line")

Option = tuple[str, str, str]
"""Name, metavar ("" for a flag), help."""


def parser() -> argparse.ArgumentParser:
    """Return the description of all commands."""
    result = argparse.ArgumentParser(
        prog="arvados-client",
        description="Shell access to running Arvados containers, through the ssh of this machine.",
        epilog=_examples(
            "arvados-client ssh-config --install",
            f"arvados-client shell {_UUID}",
            f"arvados-client doctor {_UUID}",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = result.add_subparsers(metavar="COMMAND", required=True)
    for add in (_shell, _ls, _ssh_config, _forward, _doctor, _speedtest, _completion, _ssh_proxy):
        add(commands)
    return result


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the description of each command, by its name."""
    (found,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def _add(
    commands: Commands, name: str, text: str, options: tuple[Option, ...], *examples: str
) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=_examples(*examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for option, metavar, help_text in options:
        if metavar:
            made.add_argument(option, metavar=metavar, help=help_text)
        else:
            made.add_argument(option, action="store_true", help=help_text)
    return made


def _examples(*lines: str) -> str:
    return "examples:\n" + "".join(f"  {line}\n" for line in lines)


def _shell(commands: Commands) -> None:
    made = _add(
        commands, "shell", "open a shell in a running container, or run a command there",
        (_WAIT, _USER, _DETACH, _SETTINGS, _KNOWN_HOSTS),
        f"arvados-client shell {_UUID}",
        f"arvados-client shell crunch@{_UUID} ps aux",
        f"arvados-client shell --wait {_UUID} -L 8888:127.0.0.1:8888",
    )  # fmt: skip
    made.add_argument("target", metavar="[NAME@]UUID", help=UUID_HELP)
    made.add_argument("words", nargs=argparse.REMAINDER, metavar="...", help="options of ssh(1), and a command to run")


def _ls(commands: Commands) -> None:
    _add(
        commands, "ls", "list running and waiting containers, and whether you can enter them",
        (_JSON, ("--uuids", "", "print only the UUIDs of those you can enter"), _CLUSTER, _SETTINGS),
        "arvados-client ls",
        "arvados-client ls --json --cluster zzzzz",
    )  # fmt: skip


def _ssh_config(commands: Commands) -> None:
    _add(
        commands, "ssh-config", "print or install the ssh_config block that makes ssh UUID, scp and rsync work",
        (
            ("--install", "", "write the block to its own file in ~/.ssh, and one Include line to ~/.ssh/config"),
            ("--uninstall", "", "remove exactly what --install wrote"),
            ("--dry-run", "", "with --install or --uninstall: show the change without making it"),
            ("--cluster", "ID", "a block only for the UUIDs of this cluster"),
            ("--no-control-master", "", "do not share connections between sessions"),
            ("--wait", "", "make every ssh wait for containers that are Queued or Locked"),
            ("--output-dir", "DIR", "write the block to DIR/ssh_config, for ssh -F"),
            _SETTINGS, _KNOWN_HOSTS,
        ),
        "arvados-client ssh-config --install",
        "arvados-client ssh-config --install --dry-run",
        "arvados-client ssh-config --cluster zzzzz --settings ~/zzzzz.conf",
    )  # fmt: skip


def _forward(commands: Commands) -> None:
    made = _add(
        commands, "forward", "forward ports of this machine to a running container, until Ctrl-C",
        (_USER, _SETTINGS),
        f"arvados-client forward {_UUID} 8888:8888",
        f"arvados-client forward {_UUID} 0:8888 5432:db.internal:5432",
    )  # fmt: skip
    made.add_argument("uuid", metavar="UUID", help=UUID_HELP)
    made.add_argument(
        "pairs", nargs="+", metavar="LOCAL:REMOTE",
        help="a local port, or 0 for any free one; and a port of the container, or HOST:PORT as seen from it",
    )  # fmt: skip


def _doctor(commands: Commands) -> None:
    made = _add(
        commands, "doctor",
        "check the connection to a container step by step, and say what to do about the first failure",
        (_JSON, _USER, _SETTINGS),
        "arvados-client doctor",
        f"arvados-client doctor {_UUID}",
    )  # fmt: skip
    made.add_argument("uuid", nargs="?", metavar="UUID", help=f"{UUID_HELP}; without it doctor stops after the token")


def _speedtest(commands: Commands) -> None:
    made = _add(
        commands, "speedtest", "measure the connection to a container: connect, echo, MB/s in each direction",
        (
            _JSON,
            ("--seconds", "N", "seconds to send and to receive (default: 3)"),
            ("--keystrokes", "N", "keystrokes to type (default: 100)"),
            _USER, _SETTINGS, _KNOWN_HOSTS,
        ),
        f"arvados-client speedtest {_UUID}",
        f"arvados-client speedtest --json --seconds 10 {_UUID}",
    )  # fmt: skip
    made.add_argument("uuid", metavar="UUID", help=UUID_HELP)


def _completion(commands: Commands) -> None:
    made = _add(
        commands, "completion", "print the completions of arvados-client for a shell",
        (),
        'eval "$(arvados-client completion bash)"',
        "arvados-client completion zsh >~/.zfunc/_arvados-client",
    )  # fmt: skip
    made.add_argument("shell", choices=["bash", "zsh"], help="the shell")


def _ssh_proxy(commands: Commands) -> None:
    made = _add(
        commands, "ssh-proxy", "connect stdin and stdout to a container's gateway, as the ProxyCommand of ssh",
        (
            _USER, _SETTINGS, _KNOWN_HOSTS, _CLUSTER, _DETACH, _WAIT,
            ("--control-dir", "DIR", "the directory of ControlPath; it is made private"),
            ("--needs-openssh", "X.Y", "warn if ssh is an OpenSSH older than this"),
            ("--probe-only", "", "end as soon as the session is accepted: status 0 means that you can enter"),
        ),
        "ssh -o ProxyCommand='arvados-client ssh-proxy --wait --user %r %h' NAME.arv",
        f"arvados-client ssh-proxy --probe-only {_UUID}",
    )  # fmt: skip
    made.add_argument("host", metavar="HOST", help=UUID_HELP)
