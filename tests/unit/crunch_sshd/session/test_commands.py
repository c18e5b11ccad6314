"""From a request to an argument vector and an environment."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from crunch_sshd.runtimes import Account, StartFailed, Terminal
from crunch_sshd.session import commands, profiles
from crunch_sshd.ssh.limits import COMMAND_SIZE
from tests.unit.crunch_sshd.double import CRUNCH, ROOT

NO_SHELL = replace(ROOT, shell=None)


@pytest.mark.parametrize("command", ["true", "", "echo 'a  b' | tr a b", "printf '%s' \"$HOME\"\nls", "ünïcode 🙂"])
def test_shell_command(command: str) -> None:
    """A command goes to the shell unchanged, in one word."""
    assert commands.shell_command(CRUNCH, command.encode()) == ["/bin/sh", "-c", command]


RAW = [b"\xff\xfe", b"na\xefve 'x' \\ $y `z` \"", b"caf\xe9\n\n", bytes(range(1, 256)), b"-n \xe9 %s \\0", b"\xe9_"]


@pytest.mark.parametrize("raw", RAW)
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize("sh", ["/bin/sh", "/bin/bash"])
def test_bytes_that_are_no_text(sh: str, locale: str, raw: bytes) -> None:
    """Bytes that the runtime's API cannot carry as text reach the program exactly, whatever /bin/sh is."""
    command = b"printf %s '" + raw.replace(b"'", b"'\\''") + b"'"
    vector = commands.shell_command(replace(ROOT, sh=sh), command)
    assert all(word.isascii() for word in vector)
    done = subprocess.run(vector, capture_output=True, check=True, env={"LC_ALL": locale})
    assert (done.stdout, done.stderr) == (raw, b"")


def test_bytes_for_any_shell(tmp_path: Path) -> None:
    """The login shell gets the very bytes, the line breaks at the end included, and nothing else of the command."""
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\nprintf "%s|" "$#" "$@"\nenv | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=\n')
    shell.chmod(0o755)
    vector = commands.shell_command(replace(ROOT, shell=str(shell)), b"\xe9;\n\n")
    done = subprocess.run(vector, capture_output=True, check=True, env={"PATH": "/usr/bin:/bin"})
    assert done.stdout == b"2|-c|\xe9;\n\n|PATH=/usr/bin:/bin\n"


@pytest.mark.parametrize("account", [NO_SHELL, replace(ROOT, sh=None), replace(ROOT, shell="/bin/bash", sh=None)])
def test_bytes_that_cannot_be_made(account: Account) -> None:
    """Where nothing could make the bytes, the command is refused; it never runs as another one."""
    with pytest.raises(StartFailed, match="not UTF-8, and this container's image has no /bin/sh") as caught:
        commands.shell_command(account, b"caf\xe9")
    assert caught.value.exit_status == 127


def test_bytes_without_printf() -> None:
    """A /bin/sh that has no printf says so, and runs nothing."""
    vector = commands.shell_command(ROOT, b"caf\xe9")
    vector[2] = vector[2].replace("printf", "no-printf-here", 1)
    done = subprocess.run(vector, capture_output=True)
    assert (done.returncode, done.stdout) == (127, b"")
    assert b"not UTF-8" in done.stderr and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("account", [ROOT, NO_SHELL])
def test_nul(account: Account) -> None:
    """A NUL is refused: no program can be given one, and what stands before it is another command."""
    with pytest.raises(StartFailed, match="NUL"):
        commands.shell_command(account, b"echo a\0b")


@pytest.mark.parametrize(
    ("command", "words"),
    [("/program", ["/program"]), ("/p 'a b' \"c\" d\\ e", ["/p", "a b", "c", "d e"]), ("/p ''", ["/p", ""])],
)
def test_without_a_shell(command: str, words: list[str]) -> None:
    """In an image without a shell the words are executed directly."""
    assert commands.shell_command(NO_SHELL, command.encode()) == words


@pytest.mark.parametrize(
    ("command", "status", "sentence"),
    [("", 127, "the command is empty"), ("  ", 127, "the command is empty"), ("a 'b", 2, "cannot be split into words"),
     ("/p >/out", 127, "which the command needs for the operator '>'")],
)  # fmt: skip
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


def test_shell_notice() -> None:
    """A shell that is not the user's own is announced, within a line whatever passwd says; else nothing is."""
    assert commands.shell_notice(ROOT) == ""
    notice = commands.shell_notice(replace(ROOT, missing_shell="/bin/zsh\x1b[2J" + "x" * 1000))
    assert notice.startswith("using /bin/sh: the shell of 'root', '/bin/zsh\\x1b[2Jxx")
    assert len(notice) < 200 and notice.isprintable()


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


@pytest.mark.parametrize("account", [ROOT, NO_SHELL])
@pytest.mark.parametrize("command", [b"x" * (COMMAND_SIZE + 1), b"\xff" * (COMMAND_SIZE // 4 + 1)])
def test_a_command_that_linux_does_not_execute(account: Account, command: bytes) -> None:
    """A command longer than execve(2) takes is refused, also one that becomes too long on its way to printf."""
    with pytest.raises(StartFailed, match="Linux takes at most 131071|no /bin/sh") as refused:
        commands.shell_command(account, command)
    assert refused.value.exit_status in (commands.TOO_LONG, commands.NO_SHELL)


def test_the_longest_command() -> None:
    """As long as Linux takes is not too long."""
    assert commands.shell_command(ROOT, b"x" * COMMAND_SIZE)[-1] == "x" * COMMAND_SIZE
