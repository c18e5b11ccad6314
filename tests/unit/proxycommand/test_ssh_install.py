"""Installing the block in ~/.ssh: what is there already stays byte for byte, and all of ours can be taken out again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.unit.proxycommand.conftest import Run
from tests.unit.proxycommand.double import UNIT

UUID = "zzzzz-dz642-abcdeabcdeabcde"


def ssh_config(client: Run, *flags: str) -> str:
    """Run ssh-config to its good end; return its stdout."""
    process = client("ssh-config", *flags)
    out, err = process.communicate(timeout=UNIT)
    assert process.returncode == 0, err
    return out.decode()


@pytest.mark.parametrize(
    "before", [None, b"", b"Host a\n  User b\n", b"Host a\n  User b", b"\xff\r\n\r\nHost a\r\n"]
)
def test_in_and_out(client: Run, tmp_path: Path, before: bytes | None) -> None:
    """One line more at the top, twice or once; after --uninstall the file is what it was, its absence included."""
    config = tmp_path / ".ssh" / "config"
    if before is not None:
        config.parent.mkdir()
        config.write_bytes(before)
        config.chmod(0o640)
    for _ in range(2):
        ssh_config(client, "--install")
        assert config.read_bytes() == f"Include {tmp_path}/.ssh/arvados.conf\n".encode() + (before or b"")
        assert config.stat().st_mode & 0o777 == (0o600 if before is None else 0o640)
    ssh_config(client, "--uninstall")
    assert not (tmp_path / ".ssh" / "arvados.conf").exists()
    assert (config.read_bytes() if config.exists() else None) == before


def test_ssh_reads_it(client: Run, tmp_path: Path) -> None:
    """Stock ssh finds the block through the installed line, before a block of the user's own."""
    config = tmp_path / ".ssh" / "config"
    config.parent.mkdir()
    config.write_text("Host *\n  User me\n")
    ssh_config(client, "--install")
    command = ["ssh", "-G", "-F", str(config), UUID]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=UNIT).stdout
    assert "\nuser _\n" in shown and "ssh-proxy" in shown


def test_symbolic_link(client: Run, tmp_path: Path) -> None:
    """A config that is a link stays one, and what it leads to is changed."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / "dotfiles").write_text("Host a\n")
    (tmp_path / ".ssh" / "config").symlink_to("../dotfiles")
    ssh_config(client, "--install")
    assert (tmp_path / ".ssh" / "config").is_symlink()
    assert (tmp_path / "dotfiles").read_text().startswith("Include ")


def test_dry_run(client: Run, tmp_path: Path) -> None:
    """--dry-run shows the change and makes none."""
    shown = ssh_config(client, "--install", "--dry-run")
    assert f"+Include {tmp_path}/.ssh/arvados.conf\n" in shown and "+    User _\n" in shown
    assert not (tmp_path / ".ssh").exists()


@pytest.mark.parametrize("flags", [["--dry-run"], ["--install", "--uninstall"], ["--install", "--output-dir", "x"]])
def test_flags_that_do_not_go_together(client: Run, flags: list[str]) -> None:
    """Flags that contradict each other are one line."""
    process = client("ssh-config", *flags)
    _, err = process.communicate(timeout=UNIT)
    assert (process.returncode, err.count(b"\n")) == (255, 1)
