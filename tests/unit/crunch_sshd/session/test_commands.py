"""From a request to an argument vector and an environment."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from crunch_sshd.runtimes import StartFailed, Terminal
from crunch_sshd.session import commands, profiles
from tests.unit.crunch_sshd.double import CRUNCH, ROOT

NO_SHELL = replace(ROOT, shell=None)


@pytest.mark.parametrize("command", ["true", "", "echo 'a  b' | tr a b", "printf '%s' \"$HOME\"\nls", "ünïcode 🙂"])
def test_shell_command(command: str) -> None:
    """A command goes to the shell unchanged, in one word."""
    assert commands.shell_command(CRUNCH, command.encode()) == ["/bin/sh", "-c", command]


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"na\xefve 'x' \\ $y `z` \"", b"caf\xe9\n", bytes(range(1, 256))])
def test_bytes_that_are_no_text(raw: bytes) -> None:
    """Bytes that the runtime's API cannot carry as text reach the program exactly."""
    command = b"printf %s '" + raw.replace(b"'", b"'\\''") + b"'"
    vector = commands.shell_command(ROOT, command)
    assert all(word.isascii() for word in vector)
    assert subprocess.run(vector, capture_output=True, check=True).stdout == raw


@pytest.mark.parametrize(
    ("command", "words"),
    [("/program", ["/program"]), ("/p 'a b' \"c\" d\\ e", ["/p", "a b", "c", "d e"]), ("/p ''", ["/p", ""])],
)
def test_without_a_shell(command: str, words: list[str]) -> None:
    """In an image without a shell the words are executed directly."""
    assert commands.shell_command(NO_SHELL, command.encode()) == words


@pytest.mark.parametrize(
    ("command", "status", "sentence"),
    [("", 127, "the command is empty"), ("  ", 127, "the command is empty"), ("a 'b", 2, "cannot be split into words")],
)
def test_impossible_without_a_shell(command: str, status: int, sentence: str) -> None:
    """What only a shell could understand is refused by a sentence that says so."""
    with pytest.raises(StartFailed, match=sentence) as caught:
        commands.shell_command(NO_SHELL, command.encode())
    assert caught.value.exit_status == status and "no shell" in str(caught.value)


def test_login_shell() -> None:
    """A shell request is a login shell, or says clearly that the image has none."""
    assert commands.login_shell(replace(ROOT, shell="/bin/zsh")) == ["/bin/zsh", "-l"]
    assert commands.login_shell(replace(ROOT, shell="/bin/bash")) == profiles.login_shell("/bin/bash")
    with pytest.raises(StartFailed, match="image has no shell; give a command") as caught:
        commands.login_shell(NO_SHELL)
    assert caught.value.exit_status == 127


def test_environment() -> None:
    """The login's own variables win over what the client asked for; TERM is there with a terminal only."""
    requested = {"LANG": "C", "HOME": "/evil", "TERM": "evil"}
    environment = commands.environment(CRUNCH, Terminal("vt100", 80, 24), requested)
    assert environment == {
        "LANG": "C", "HOME": "/home/crunch", "USER": "crunch", "LOGNAME": "crunch", "SHELL": "/bin/sh", "TERM": "vt100",
        "MAIL": "/var/mail/crunch",
    }  # fmt: skip
    assert "TERM" not in commands.environment(CRUNCH, None, {})
    assert commands.environment(NO_SHELL, None, {})["SHELL"] == "/bin/sh"


@pytest.mark.parametrize(("name", "yes"), [("LANG", True), ("LC_ALL", True), ("LC_", True), ("LANGUAGE", False),
                                           ("XLC_A", False), ("lang", False), ("", False)])  # fmt: skip
def test_accepted(name: str, yes: bool) -> None:
    """Patterns are matched against the whole name, case counts."""
    assert commands.accepted(name, ("LANG", "LC_*")) is yes


@pytest.mark.parametrize(("name", "yes"), [("SSH_TTY", False), ("SSH_AUTH_SOCK", False), ("SSH", True), ("FOO", True)])
def test_accepted_where_everything_is(name: str, yes: bool) -> None:
    """A variable about the connection is never the client's to set."""
    assert commands.accepted(name, ("*",)) is yes
