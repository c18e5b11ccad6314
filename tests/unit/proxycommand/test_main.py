"""The command line of arvados-client."""

from __future__ import annotations

import subprocess
import sys

import pytest

from arv_ssh import __version__
from tests.unit.proxycommand.conftest import Run
from tests.unit.proxycommand.double import UNIT


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["--version"], f"arvados-client {__version__}\n"),
        (["--help"], "usage: arvados-client COMMAND"),
        ([], "usage: arvados-client COMMAND"),
        (["ssh-proxy", "--help"], "usage: arvados-client ssh-proxy"),
        (["shell", "--help"], "usage: arvados-client shell"),
        (["ssh-config", "--help"], "usage: arvados-client ssh-config"),
    ],
)
def test_help(client: Run, arguments: list[str], start: str) -> None:
    """Help and the version go to stdout, with exit 0."""
    process = client(*arguments)
    out, err = process.communicate(timeout=UNIT)
    assert (process.returncode, err) == (0, b"")
    assert out.decode().startswith(start)


def test_unknown_command(client: Run) -> None:
    """An unknown command is named, in one line."""
    process = client("ssh_proxy")
    _, err = process.communicate(timeout=UNIT)
    assert process.returncode == 255
    assert err == b"arvados-client: there is no command 'ssh_proxy'; see arvados-client --help\n"


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
