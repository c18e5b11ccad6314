"""Installing the block in ~/.ssh: what is there already stays byte for byte, and all of ours can be taken out again."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from proxycommand.ssh_install import read_by_ssh
from tests.unit.conftest import Run
from tests.unit.controller_double import UNIT

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


def test_two_clusters(client: Run, tmp_path: Path) -> None:
    """Blocks of single clusters stand beside the one for all, before it, and each goes by itself."""
    config = tmp_path / ".ssh" / "config"
    for more in (["--cluster", "aaaaa"], [], ["--cluster", "bbbbb"], ["--cluster", "aaaaa"]):
        ssh_config(client, "--install", *more)
    names = ["arvados-bbbbb.conf", "arvados-aaaaa.conf", "arvados.conf"]
    assert config.read_text() == "".join(f"Include {tmp_path}/.ssh/{name}\n" for name in names)
    ssh_config(client, "--uninstall", "--cluster", "aaaaa")
    assert config.read_text() == "".join(f"Include {tmp_path}/.ssh/{name}\n" for name in (names[0], names[2]))
    ssh_config(client, "--uninstall")
    ssh_config(client, "--uninstall", "--cluster", "bbbbb")
    assert list((tmp_path / ".ssh").iterdir()) == []


def test_one_clusters_settings_count(client: Run, tmp_path: Path) -> None:
    """The block of one cluster wins over the one for all, though that was installed later."""
    ssh_config(client, "--install", "--cluster", "zzzzz", "--settings", "/theirs")
    ssh_config(client, "--install", "--settings", "/all")
    for host, file in ((UUID, "/theirs"), (UUID.replace("zzzzz", "aaaaa"), "/all")):
        command = ["ssh", "-G", "-F", str(tmp_path / ".ssh" / "config"), host]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=UNIT).stdout
        assert f" --settings {file} " in shown


def test_another_home(client: Run, tmp_path: Path) -> None:
    """Where HOME is not the account's own, one line says that ssh will not read what was written."""
    process = client("ssh-config", "--install")
    _, err = process.communicate(timeout=UNIT)
    assert process.returncode == 0
    assert f"ssh does not read {tmp_path}/.ssh/config: HOME is not this account's home; use ssh -F" in err.decode()
    assert read_by_ssh(os.path.join(pwd.getpwuid(os.getuid()).pw_dir, ".ssh"))


def test_dangling_link(client: Run, tmp_path: Path) -> None:
    """A config that is a link to nothing is one again afterwards."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").symlink_to("../dotfiles")
    ssh_config(client, "--install")
    assert (tmp_path / "dotfiles").read_text().startswith("Include ")
    ssh_config(client, "--uninstall")
    assert (tmp_path / ".ssh" / "config").is_symlink() and not (tmp_path / "dotfiles").exists()


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
