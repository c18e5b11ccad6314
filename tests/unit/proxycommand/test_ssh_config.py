"""The generated block as the real ssh reads it, paths with spaces and per cents included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxycommand import ssh_config
from tests.unit.proxycommand.conftest import Run
from tests.unit.proxycommand.double import UNIT

UUID = "zzzzz-dz642-abcdeabcdeabcde"


def read(config: Path, host: str) -> dict[str, str]:
    """Return what ``ssh -G`` makes of ``config`` for ``host``."""
    done = subprocess.run(
        ["ssh", "-G", "-F", str(config), host], capture_output=True, text=True, check=True, timeout=UNIT
    )
    return {key: value for key, _, value in (line.partition(" ") for line in done.stdout.splitlines())}


@pytest.mark.parametrize("name", ["plain", "with space", "100%h", 'quo"te', "apo'strophe", "back\\slash"])
def test_block_is_read_back(tmp_path: Path, name: str) -> None:
    """ssh finds the settings in the block, and the known_hosts file under the directory as it was given."""
    directory = tmp_path / name
    directory.mkdir()
    config = tmp_path / "config"
    config.write_text(ssh_config.block(str(directory / "env"), str(directory)))
    found = read(config, UUID)
    assert found["user"] == "_"
    assert found["stricthostkeychecking"] == "true"
    assert found["updatehostkeys"] == "false"
    assert found["globalknownhostsfile"] == "none"
    assert found["userknownhostsfile"] == f"{directory}/{UUID}"
    assert found["proxycommand"].endswith("--user '%r' '%h'")


def test_other_hosts_are_left_alone(tmp_path: Path) -> None:
    """The block says nothing about hosts that are no containers, and speaks for container requests too."""
    config = tmp_path / "config"
    config.write_text(ssh_config.block("", str(tmp_path)))
    assert "proxycommand" not in read(config, "example.org")
    assert "proxycommand" in read(config, "zzzzz-xvhdp-abcdeabcdeabcde")
    assert read(config, f"ann@{UUID}")["user"] == "ann"


def test_output_dir(tmp_path: Path, client: Run) -> None:
    """--output-dir writes ssh_config there, with absolute paths into it, and prints nothing."""
    process = client("ssh-config", "--settings", str(tmp_path / "env"), "--output-dir", str(tmp_path))
    out, err = process.communicate(timeout=UNIT)
    assert (process.returncode, out, err) == (0, b"", b"")
    text = (tmp_path / "ssh_config").read_text()
    assert f"ssh-proxy --settings {tmp_path}/env --known-hosts-dir {tmp_path}/known_hosts --user '%r' '%h'" in text
    assert "@" not in text.replace("LOGIN@UUID", "")
    assert [path.name for path in tmp_path.iterdir()] == ["ssh_config"]


def test_printed(tmp_path: Path, client: Run) -> None:
    """Without options the block is printed; it leaves settings to the environment and hosts' keys to the cache."""
    process = client("ssh-config")
    out, err = process.communicate(timeout=UNIT)
    assert (process.returncode, err) == (0, b"")
    assert b"--settings" not in out
    assert f'UserKnownHostsFile "{tmp_path}/.cache/arvados/known_hosts/%h"'.encode() in out


def test_own_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The program is named by the path it was started by, else by the one beside Python, else as a module."""
    program = tmp_path / "arvados-client"
    program.touch(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert ssh_config.own_command() == [str(program)]
    monkeypatch.setattr(sys, "argv", ["/elsewhere/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    assert ssh_config.own_command() == [str(program)]
    program.unlink()
    assert ssh_config.own_command() == [str(tmp_path / "python3"), "-m", "proxycommand"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["extra"], b"ssh-config takes no 'extra'; usage: "), (["--nope"], b"there is no option --nope; usage: ")],
)
def test_bad_arguments(client: Run, arguments: list[str], sentence: bytes) -> None:
    """A wrong command line is one line and exit 255."""
    process = client("ssh-config", *arguments)
    _, err = process.communicate(timeout=UNIT)
    assert process.returncode == 255
    assert sentence in err
