"""The command line of arvados-client."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from arv_ssh import __version__
from tests.unit.conftest import Run
from tests.unit.controller_double import UNIT


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["--version"], f"arvados-client {__version__}\n"),
        (["--help"], "usage: arvados-client [-h] [--version] COMMAND ..."),
        ([], "usage: arvados-client [-h] [--version] COMMAND ..."),
        (["ssh-proxy", "--help"], "usage: arvados-client ssh-proxy"),
        (["ssh-proxy", "--wait", "-h"], "usage: arvados-client ssh-proxy"),
        (["shell", "--help"], "usage: arvados-client shell"),
        (["help"], "usage: arvados-client [-h]"),
        (["version"], f"arvados-client {__version__}\n"),
        (["ssh-config", "--help"], "usage: arvados-client ssh-config"),
    ],
)
def test_help(client: Run, arguments: list[str], start: str) -> None:
    """Help and the version go to stdout, with exit 0."""
    process = client(*arguments)
    out, err = process.communicate(timeout=UNIT)
    assert (process.returncode, err) == (0, b"")
    assert out.decode().startswith(start)


@pytest.mark.parametrize(("word", "kind"), [("ssh_proxy", "command"), ("--verbose", "option"), ("", "command")])
def test_unknown_command(client: Run, word: str, kind: str) -> None:
    """An unknown command, or an option in its place, is named, in one line."""
    process = client(word)
    _, err = process.communicate(timeout=UNIT)
    assert process.returncode == 255
    assert err.decode() == f"arvados-client: unknown {kind} {word!r}; see arvados-client --help\n"


def test_a_package_is_missing() -> None:
    """Where only what ssh needs was installed, a command that needs more names the package in one line."""
    program = (
        "import sys; sys.modules['paramiko'] = None; sys.argv[1:] = ['forward', 'zzzzz-dz642-abcdeabcdeabcde', '0:1']\n"
        "from proxycommand.__main__ import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=UNIT)
    said = "arvados-client: the Python package paramiko is not installed; pip install paramiko\n"
    assert (done.returncode, done.stderr) == (255, said)


@pytest.mark.parametrize(("words", "status", "tidied"), [("version", 0, True), ("ssh-proxy --help", 0, False),
                                                         ("ssh-proxy", 255, False)])  # fmt: skip
def test_ends_at_once(words: str, status: int, tidied: bool) -> None:
    """An ssh-proxy has said all, and leaves the tidying to the kernel; other commands end as Python does."""
    program = (
        f"import atexit, sys; atexit.register(print, 'tidied'); sys.argv[1:] = {words.split()}\n"
        "from proxycommand.__main__ import program\n"
        "sys.exit(program())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=UNIT)
    assert done.returncode == status and done.stdout.endswith("tidied\n") == tidied
    assert "ssh-proxy" in done.stdout + done.stderr or tidied


def test_nobody_reads_stdout(client: Run) -> None:
    """Who has read enough (`| head`) is told nothing more, and a full disk is one line; neither ends in a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone, open("/dev/full", "wb") as full:
        for stdout, said in ((gone, b""), (full, b"arvados-client: No space left on device\n")):
            process = client("ssh-config", stdout=stdout)
            assert process.communicate(timeout=UNIT)[1] == said
            assert process.returncode == 255


def test_closed_streams() -> None:
    """A command whose stdout is closed does its work all the same, and so does one whose stderr is."""
    for arguments in ("ssh-config >&-", "completion bash >&-", "doctor >&-", "doctor --nonsense 2>&-"):
        shell = ["sh", "-c", f'exec "$0" -m proxycommand {arguments}', sys.executable]
        env = {"HOME": "/nonexistent", "PATH": os.defpath}
        done = subprocess.run(shell, capture_output=True, timeout=UNIT, env=env)
        assert (done.returncode, done.stdout, done.stderr) == (255 if "doctor" in arguments else 0, b"", b"")


def test_a_terminal_of_another_age(client: Run) -> None:
    """What the terminal's encoding lacks is a question mark, not a traceback."""
    process = client("ssh-config", env={"XDG_CACHE_HOME": "/tmp/caf\u00e9", "PYTHONIOENCODING": "ascii"})
    out, err = process.communicate(timeout=UNIT)
    assert (process.returncode, err) == (0, b"")
    assert b"Include /tmp/caf?/arvados/hosts/*.conf" in out
