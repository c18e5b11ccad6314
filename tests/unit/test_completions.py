"""The completions as a real bash and a real zsh take them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import config_templates
from tests.integration.terminal import TerminalSession
from tests.timing import DEADLINE

FILES = Path(config_templates.__file__).parent
UUID = "zzzzz-dz642-abcdeabcdeabcde"


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """Return a directory with an ``arvados-client`` that lists one container, and nothing else."""
    program = tmp_path / "bin" / "arvados-client"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$*" = "ls --uuids" ] && echo {UUID}\n')
    program.chmod(0o755)
    return program.parent


def complete_in_bash(program: str, line: str, path: Path) -> set[str]:
    """Return what bash offers for the last word of ``line``."""
    script = (
        f'source "{FILES}/bash-completion/{program}" || exit\n'
        f"read -ra COMP_WORDS <<<'{line}'; [[ '{line}' == *' ' ]] && COMP_WORDS+=('')\n"
        'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); set -- $(complete -p ' + program + ")\n"
        'while [ "$1" != -F ]; do shift; done; "$2"\n'
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, timeout=DEADLINE,
        env={"PATH": f"{path}:/usr/bin:/bin"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("program", "line", "offered"),
    [
        ("arvados-client", "arvados-client d", {"doctor"}),
        ("arvados-client", "arvados-client s", {"shell", "speedtest", "ssh-config", "ssh-proxy"}),
        ("arvados-client", "arvados-client ssh-config --in", {"--install"}),
        ("arvados-client", "arvados-client completion ", {"bash", "zsh"}),
        ("arvados-client", "arvados-client forward z", {UUID}),
        ("arvados-client", "arvados-client shell ", {UUID}),
        ("arv-ssh", "arv-ssh cl", {"cluster"}),
        ("arv-ssh", "arv-ssh cluster r", {"run"}),
        ("arv-ssh", "arv-ssh cluster run --im", {"--image"}),
    ],
)
def test_bash(stand_in: Path, program: str, line: str, offered: set[str]) -> None:
    """bash offers commands, options, choices, and the containers that can be entered."""
    assert complete_in_bash(program, line, stand_in) == offered


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("arvados-client doc\t", "arvados-client doctor"),
        ("arvados-client ssh-config --unin\t", "arvados-client ssh-config --uninstall"),
        ("arvados-client forward zzz\t", f"arvados-client forward {UUID}"),
        ("arv-ssh clu\tu\t", "arv-ssh cluster up"),
    ],
)
def test_zsh(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, shown: str) -> None:
    """zsh finds the files in its fpath and completes the same on its command line."""
    (tmp_path / ".zshrc").write_text(
        f"fpath=({FILES}/zsh $fpath)\nautoload -U compinit\ncompinit -u -D\nPS1='ready> '\n"
        "bindkey -e\nprint-line() { print -r -- \"<$BUFFER>\"; BUFFER=; zle accept-line }\n"
        "zle -N print-line\nbindkey '^X' print-line\n"
    )
    monkeypatch.setenv("ZDOTDIR", str(tmp_path))
    monkeypatch.setenv("PATH", f"{stand_in}:{os.environ['PATH']}")
    monkeypatch.setenv("TERM", "dumb")
    with TerminalSession(["zsh", "-d", "-i"], size=(24, 200)) as session:
        session.expect("ready> ")
        session.type(typed)
        session.type("\x18")
        session.expect(f"<{shown}")
