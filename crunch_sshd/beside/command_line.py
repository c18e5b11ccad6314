"""The command line of ``crunch-run-beside``: which of its words are ours, which are stock crunch-run's.

Owns taking our options out of a dispatcher's call, wherever they stand in it: a site writes them behind the program's
name or into ``CrunchRunArgumentsList``, and dispatchers add their own words before and after. Every other word reaches
stock as it is, in its order.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NoReturn

from arv_ssh import __version__, uuids
from arv_ssh.errors import UsageError
from crunch_sshd import gateway_options

PROGRAM = "crunch-run-beside"
EXAMPLES = """examples:
  crunch-run-beside --detach --stdin-config --runtime-engine=docker zzzzz-dz642-abcdeabcdeabcde
  crunch-run-beside --stock=/usr/bin/crunch-run --runtime-engine=singularity zzzzz-dz642-abcdeabcdeabcde
  crunch-run-beside --list
"""
NOT_RUNS = ("list", "kill", "version", "no-detach")
"""Stock's options of calls that run no container, or that stock makes for itself. Go takes one hyphen or two."""


class _Parser(argparse.ArgumentParser):
    """Reports an error as an exception, and never repeats a value."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {PROGRAM} --help")


def parser() -> argparse.ArgumentParser:
    """Return the description of our options."""
    result = _Parser(
        prog=PROGRAM,
        description="Call stock crunch-run, with our gateway beside it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    result.add_argument("words", nargs="*", metavar="ARGUMENT", help="stock crunch-run's: they reach it as they are")
    result.add_argument(
        "--stock", metavar="PATH", help="stock crunch-run, or arvados-server (default: the first of the usual places)"
    )
    result.add_argument("--log", metavar="FILE", help="append what the gateway logs to this file (default: nowhere)")
    gateway_options.add_arguments(result, ["auto", "docker", "oci"], logs=None, address=None)
    _with_stock_options(result)
    return result


def _with_stock_options(result: argparse.ArgumentParser) -> None:
    """Have the parser take the options of dispatchers in examples, without describing them: they are not ours."""
    for name in ("--detach", "--stdin-config", "--list"):
        result.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    result.add_argument("--runtime-engine", help=argparse.SUPPRESS)


@dataclass(frozen=True)
class Call:
    """A dispatcher's call: our words, and stock's."""

    ours: list[str]
    stock: list[str]

    @property
    def uuid(self) -> str:
        """The container to run; "" when the call is for something else, or is not understood."""
        names = {_name(word) for word in self.stock}
        last = self.stock[-1] if self.stock else ""
        return "" if names.intersection(NOT_RUNS) or not uuids.is_container(last) else last

    def has(self, name: str) -> bool:
        """Say whether stock's words have a switch, ``--name`` or ``-name``."""
        return any(_name(word) == name and _value(word) not in ("=false", "=0") for word in self.stock)

    def value(self, name: str, default: str) -> str:
        """Return the value of an option of stock's; the last one counts."""
        for number in range(len(self.stock) - 1, -1, -1):
            if _name(self.stock[number]) == name:
                joined = _value(self.stock[number])
                return joined[1:] if joined else "".join(self.stock[number + 1 : number + 2])
        return default


def split(words: Sequence[str]) -> Call:
    """Tell our words from stock's. An option of ours without its value is ours alone."""
    taking = {name: action.nargs is None for action in _described() for name in action.option_strings}
    call = Call([], [])
    rest = iter(words)
    for word in rest:
        name, separator, _ = word.partition("=")
        if name not in taking:
            call.stock.append(word)
            continue
        call.ours.append(word)
        if taking[name] and not separator:
            call.ours.extend(islice(rest, 1))
    return call


def options(call: Call) -> argparse.Namespace:
    """Read our words; raise :class:`UsageError` with a sentence where they make no sense."""
    return parser().parse_args(call.ours)


def stock_path(call: Call) -> str:
    """Return ``--stock``, whatever is wrong with the other options; "" without it."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument("--stock", default="")
    try:
        return str(reader.parse_known_args(call.ours)[0].stock)
    except argparse.ArgumentError:
        return ""


def _described() -> list[argparse.Action]:
    """Return the actions of our options: those with help, but for --help and --version, which stock has too."""
    shown = [action for action in parser()._actions if action.help != argparse.SUPPRESS]
    return [action for action in shown if not {"--help", "--version"}.intersection(action.option_strings)]


def _name(word: str) -> str:
    return word.lstrip("-").partition("=")[0] if word.startswith("-") else ""


def _value(word: str) -> str:
    name, separator, value = word.partition("=")
    return separator + value
