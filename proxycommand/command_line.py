"""The command line of ``arvados-client``, by argparse: one source for parsing, --help, completions and man pages.

Owns the sentence for each mistake. Only ssh-proxy reads its arguments by hand (:mod:`proxycommand.arguments`), since
argparse would cost every connection; a test holds that its description here has the same options.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from arv_ssh import __version__
from arv_ssh.errors import UsageError

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction["CommandParser"]

UUID_HELP = "UUID of a container or of a container request, or NAME.arv for your newest running request of that name"
_UUID = "zzzzz-dz642-abcdeabcdeabcde"
_CLUSTER_ID = re.compile(r"[0-9a-z]{5}")

_SETTINGS = ("--settings", "FILE", "take ARVADOS_API_HOST and ARVADOS_API_TOKEN from FILE")
_USER = ("--user", "NAME", "log in as this user of the container (default: the image's own)")
_KNOWN_HOSTS = ("--known-hosts-dir", "DIR", "directory for the host keys, one file per host")
_DETACH = ("--detach-keys", "KEYS", "keys that detach from the session, such as ctrl-p,ctrl-q (default: none)")
_CLUSTER = ("--cluster", "ID", "use ~/.config/arvados/ID.conf, the settings of the cluster ID")
_JSON = ("--json", "", "print JSON")
_WAIT = ("--wait", "", "wait for a container that is Queued or Locked, with a progress line")
_RESUME_FOR = ("--resume-for", "SECONDS", "bring a lost connection back within so long, 0 for not (default: 600)")

Option = tuple[str, str, str]
"""Name, metavar ("" for a flag), help."""

_MISTAKES = (
    (r"argument (-\S+): expected one argument", r"the option \1 needs a value"),
    (r"argument (-\S+): ignored explicit argument .*", r"the option \1 takes no value"),
    (r"argument (-\S+): not allowed with argument (-\S+)", r"\2 and \1 contradict each other: give only one"),
    (r"argument \S+: invalid choice: (.*) \(choose from .*", r"{command} needs {needs}, not \1"),
    (r"the following arguments are required: .*", r"{command} needs {needs}"),
)
"""argparse's message for each mistake, and ours."""


class CommandParser(argparse.ArgumentParser):
    """The parser of one command. A mistake raises :class:`UsageError`, one sentence with where to look."""

    needs = ""
    """The words that the command requires, as error messages name them."""

    def error(self, message: str) -> NoReturn:
        """Raise argparse's ``message`` in our words."""
        for pattern, ours in _MISTAKES:
            found = re.fullmatch(pattern, message)
            if found:
                command = self.prog.rpartition(" ")[2]
                message = found.expand(ours).replace("{command}", command).replace("{needs}", self.needs)
                break
        raise UsageError(f"{message}; see {self.prog} --help")

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the parsed ``argv``. Raise :class:`UsageError`, or :class:`SystemExit` after printing the help."""
        options, left = self.parse_known_args(argv)
        for word in left:
            if word.startswith("-") and len(word) > 1:
                self.error(f"unknown option {word.partition('=')[0]}")
            self.error(f"{self.prog.rpartition(' ')[2]} does not take {word!r}")
        return options


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
    commands = result.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    for add in (_shell, _ls, _ssh_config, _forward, _logs, _open, _doctor, _speedtest, _completion, _ssh_proxy):
        add(commands)
    return result


def command_parsers() -> dict[str, CommandParser]:
    """Return the parser of each command, by its name."""
    (found,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def _add(
    commands: Commands,
    name: str,
    text: str,
    options: tuple[Option, ...],
    *examples: str,
    one_of: tuple[Option, ...] = (),
) -> CommandParser:
    """Add a command; of the options ``one_of`` only one may be given."""
    made: CommandParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=_examples(*examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if one_of:
        _add_options(made.add_mutually_exclusive_group(), one_of)
    _add_options(made, options)
    return made


def _add_options(to: argparse._ActionsContainer, options: tuple[Option, ...]) -> None:
    for name, metavar, text in options:
        if metavar:
            to.add_argument(
                name, metavar=metavar, help=text, default="", type=_cluster_id if metavar == "ID" else str
            )
        else:
            to.add_argument(name, action="store_true", help=text)


def _examples(*lines: str) -> str:
    return "examples:\n" + "".join(f"  {line}\n" for line in lines)


def _positive(name: str, default: float) -> Callable[[str], float]:
    """Return a function that reads the value of the option ``name``, a number of the same type as ``default``."""

    def read(text: str) -> float:
        try:
            number = type(default)(text)
        except ValueError:
            number = 0
        if not 0 < number <= 10_000:
            raise UsageError(f"{name} is {text!r}; give a number above 0, such as {default:g}")
        return number

    return read


def _cluster_id(text: str) -> str:
    if text and not _CLUSTER_ID.fullmatch(text):
        raise UsageError(f"{text!r} is not a cluster id: give the first five characters of the cluster's UUIDs")
    return text


def _shell(commands: Commands) -> None:
    made = _add(
        commands, "shell", "open a shell in a running container, or run a command there",
        (_WAIT, _USER, _DETACH, _SETTINGS, _KNOWN_HOSTS),
        f"arvados-client shell {_UUID}",
        f"arvados-client shell crunch@{_UUID} ps aux",
        f"arvados-client shell --wait {_UUID} -L 8888:127.0.0.1:8888",
    )  # fmt: skip
    made.needs = "a container's UUID"
    made.add_argument("target", metavar="[NAME@]UUID", help=UUID_HELP)
    made.add_argument("words", nargs=argparse.REMAINDER, metavar="...", help="options of ssh(1), and a command to run")


def _ls(commands: Commands) -> None:
    _add(
        commands, "ls", "list running and waiting containers, and whether you can enter them",
        (_CLUSTER, _SETTINGS),
        "arvados-client ls",
        "arvados-client ls --json --cluster zzzzz",
        one_of=(_JSON, ("--uuids", "", "print only the UUIDs of those you can enter")),
    )  # fmt: skip


def _ssh_config(commands: Commands) -> None:
    _add(
        commands, "ssh-config", "print or install the ssh_config block that makes ssh UUID, scp and rsync work",
        (
            ("--dry-run", "", "with --install or --uninstall: show the change without making it"),
            ("--cluster", "ID", "a block only for the UUIDs of this cluster"),
            ("--no-control-master", "", "do not share connections between sessions"),
            ("--wait", "", "make every ssh wait for containers that are Queued or Locked"),
            _RESUME_FOR, _SETTINGS, _KNOWN_HOSTS,
        ),
        "arvados-client ssh-config --install",
        "arvados-client ssh-config --install --dry-run",
        "arvados-client ssh-config --cluster zzzzz --settings ~/zzzzz.conf",
        one_of=(
            ("--install", "", "write the block to its own file in ~/.ssh, and one Include line to ~/.ssh/config"),
            ("--uninstall", "", "remove exactly what --install wrote"),
            ("--output-dir", "DIR", "write the block to DIR/ssh_config, for ssh -F"),
        ),
    )  # fmt: skip


def _forward(commands: Commands) -> None:
    made = _add(
        commands, "forward", "forward ports of this machine to a running container, until Ctrl-C",
        (_USER, _SETTINGS),
        f"arvados-client forward {_UUID} 8888:8888",
        f"arvados-client forward {_UUID} 0:8888 5432:db.internal:5432",
    )  # fmt: skip
    made.needs = "a container's UUID and what to forward, such as 8888:8888"
    made.add_argument("uuid", metavar="UUID", help=UUID_HELP)
    made.add_argument(
        "pairs", nargs="+", metavar="LOCAL:REMOTE",
        help="a local port, or 0 for any free one; and a port of the container, or HOST:PORT as seen from it",
    )  # fmt: skip


def _logs(commands: Commands) -> None:
    made = _add(
        commands, "logs", "print what a container has logged: crunch-run.txt, stdout.txt, stderr.txt, in order",
        (_SETTINGS,),
        f"arvados-client logs {_UUID}",
        f"arvados-client logs -f {_UUID}",
    )  # fmt: skip
    made.add_argument("-f", "--follow", action="store_true", help="go on until the container ends")
    made.needs = "a container's UUID"
    made.add_argument("uuid", metavar="UUID", help=UUID_HELP)


def _open(commands: Commands) -> None:
    made = _add(
        commands, "open", "print the address of a container's port for a browser, or forward it if the site has none",
        (("--with-token", "", "put your API token into the address; a private port needs it once"), _USER, _SETTINGS),
        f"arvados-client open {_UUID} 8888",
        f"xdg-open $(arvados-client open --with-token {_UUID} 8888)",
    )  # fmt: skip
    made.needs = "a container's UUID and a port"
    made.add_argument("uuid", metavar="UUID", help=UUID_HELP)
    made.add_argument("port", metavar="PORT", help="the container's port")


def _doctor(commands: Commands) -> None:
    made = _add(
        commands, "doctor",
        "check the connection to a container step by step, and say what to do about the first failure",
        (_JSON, _USER, _SETTINGS),
        "arvados-client doctor",
        f"arvados-client doctor {_UUID}",
    )  # fmt: skip
    made.add_argument(
        "uuid", nargs="?", default="", metavar="UUID", help=f"{UUID_HELP}; without it doctor stops after the token"
    )


def _speedtest(commands: Commands) -> None:
    made = _add(
        commands, "speedtest", "measure the connection to a container: connect, echo, MB/s in each direction",
        (_JSON, _USER, _SETTINGS, _KNOWN_HOSTS),
        f"arvados-client speedtest {_UUID}",
        f"arvados-client speedtest --json --seconds 10 {_UUID}",
    )  # fmt: skip
    for name, default, text in (("--seconds", 3.0, "seconds to send and to receive"),
                                ("--keystrokes", 100, "keystrokes to type")):  # fmt: skip
        made.add_argument(
            name, metavar="N", type=_positive(name, default), default=default, help=f"{text} (default: {default:g})"
        )
    made.needs = "a container's UUID"
    made.add_argument("uuid", metavar="UUID", help=UUID_HELP)


def _completion(commands: Commands) -> None:
    made = _add(
        commands, "completion", "print the completions of arvados-client for a shell",
        (),
        'eval "$(arvados-client completion bash)"',
        "arvados-client completion zsh >~/.zfunc/_arvados-client",
    )  # fmt: skip
    made.needs = "bash or zsh"
    made.add_argument("shell", choices=["bash", "zsh"], help="the shell")


def _ssh_proxy(commands: Commands) -> None:
    made = _add(
        commands, "ssh-proxy", "connect stdin and stdout to a container's gateway, as the ProxyCommand of ssh",
        (
            _USER, _SETTINGS, _KNOWN_HOSTS, _CLUSTER, _DETACH, _WAIT,
            ("--control-dir", "DIR", "the directory of ControlPath; it is made private"),
            ("--needs-openssh", "X.Y", "warn if ssh is an OpenSSH older than this"),
            _RESUME_FOR,
            ("--no-resume", "", "end with the connection, as ssh itself does"),
            ("--probe-only", "", "end as soon as the session is accepted: status 0 means that you can enter"),
        ),
        "ssh -o ProxyCommand='arvados-client ssh-proxy --wait --user %r %h' NAME.arv",
        f"arvados-client ssh-proxy --probe-only {_UUID}",
    )  # fmt: skip
    made.add_argument("host", metavar="HOST", help=UUID_HELP)
