"""What the programs say of their command lines: --help, --version, examples, man pages; and that it is true."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arv_ssh import __version__
from arv_ssh.cli import main as arv_ssh_main
from arv_ssh.dispatch import local
from arv_ssh.dispatch.slurm import main as slurm
from crunch_sshd import crunch_run, crunch_sshd
from crunch_sshd.beside import command_line as beside
from proxycommand import __main__ as arvados_client
from proxycommand import arguments, command_line, ssh_proxy
from tests.timing import DEADLINE

ROOT = Path(__file__).parents[2]
PARSERS = {
    "arvados-client": command_line.parser, "arv-ssh": arv_ssh_main.parser, "crunch-run": crunch_run.parser,
    "crunch-sshd": crunch_sshd.parser, "crunch-run-beside": beside.parser, "crunch-dispatch-local": local.parser,
    "crunch-dispatch-slurm": slurm.parser,
}  # fmt: skip
PAGES = sorted((ROOT / "docs" / "man").iterdir())


def every_parser(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parser and those of its commands that do something."""
    deeper = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not deeper or parser.epilog:
        yield parser
    for action in deeper:
        for command in action.choices.values():
            yield from every_parser(command)


DESCRIBED = [one for make in PARSERS.values() for one in every_parser(make())]


@pytest.mark.parametrize("parser", DESCRIBED, ids=lambda parser: str(parser.prog))
def test_help_has_examples_that_parse(parser: argparse.ArgumentParser) -> None:
    """Every command's help has examples, and each of its own is a command line that it takes."""
    examples = re.findall(r"^  (.+)$", parser.epilog or "", re.MULTILINE)
    assert examples and parser.description, f"{parser.prog} needs a description, and an epilog with examples"
    for example in examples:
        words = shlex.split(re.sub(r"^eval .*\$\((.*)\)\"$|>.*", r"\1", example))
        if words[0] not in PARSERS:
            continue  # ssh, with a command of ours in an option
        PARSERS[words[0]]().parse_args(words[1 : words.index("--")] if "--" in words else words[1:])


@pytest.mark.parametrize("program", PARSERS)
def test_version_and_help(program: str) -> None:
    """--version prints name and version, --help the usage, both on stdout with status 0."""
    command = str(Path(sys.executable).with_name(program))
    for option, start in (("--version", f"{program} {__version__}\n"), ("--help", f"usage: {program} ")):
        done = subprocess.run([command, option], capture_output=True, text=True, timeout=DEADLINE)
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(start)


def test_every_command_of_the_client_is_described() -> None:
    """The commands that arvados-client starts and those that are described are the same."""
    assert {*arvados_client.COMMANDS, "ssh-proxy"} == set(command_line.command_parsers())
    for module in arvados_client.COMMANDS.values():
        assert callable(importlib.import_module(module).run)


class _Asked(Exception):
    """What ssh-proxy lets the reader of its arguments look for."""


def test_ssh_proxy_reads_the_options_that_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """ssh-proxy, which reads its arguments by hand, knows exactly the options that its help names."""
    asked: list[Any] = []

    def read(argv: list[str], valued: tuple[str, ...], flags: tuple[str, ...], **_: Any) -> None:
        asked.extend((set(valued), set(flags)))
        raise _Asked

    monkeypatch.setattr(arguments, "read", read)
    with pytest.raises(_Asked):
        ssh_proxy.run([])
    actions = [action for action in command_line.command_parsers()["ssh-proxy"]._actions if action.option_strings]
    valued = {action.option_strings[-1] for action in actions if action.nargs is None}
    assert asked == [valued, {name for action in actions for name in action.option_strings} - valued]


def test_what_is_generated_is_up_to_date() -> None:
    """Completions and man pages are those of the command lines as they are."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate", "--check"], capture_output=True, text=True, timeout=DEADLINE
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("man"), reason="man is not installed")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_man_page(page: Path) -> None:
    """man shows each page without a warning, with every option that --help names."""
    done = subprocess.run(
        ["man", "-l", "--warnings", str(page)], capture_output=True, text=True, timeout=DEADLINE,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "200"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    shown = set(re.findall(r"--[a-z-]+", done.stdout))
    for parser in every_parser(PARSERS[page.stem]()):
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", parser.format_help())) <= shown
    assert "EXAMPLES" in done.stdout and "SEE ALSO" in done.stdout
