"""The generated block as the real ssh reads it, paths with spaces and per cents included."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from crunch_sshd.gateway.algorithms import MODERN
from proxycommand import ssh_config
from tests.unit.conftest import Run
from tests.unit.controller_double import UNIT

UUID = "zzzzz-dz642-abcdeabcdeabcde"


def read(config: Path, host: str, *, stderr: int = subprocess.PIPE) -> dict[str, str]:
    """Return what ``ssh -G`` makes of ``config`` for ``host``."""
    done = subprocess.run(
        ["ssh", "-G", "-F", str(config), host],
        stdout=subprocess.PIPE, stderr=stderr, text=True, check=True, timeout=UNIT,
    )  # fmt: skip
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


def test_the_fastest_cipher_is_first(tmp_path: Path) -> None:
    """ssh asks for all that gateways have, the fastest first, in words that every OpenSSH since 6.2 understands."""
    config = tmp_path / "config"
    config.write_text(ssh_config.block("", str(tmp_path)))
    assert read(config, UUID)["ciphers"] == ",".join(MODERN.ciphers)
    assert read(config, "example.org")["ciphers"] != ",".join(MODERN.ciphers)
    (line,) = (line for line in config.read_text().splitlines() if "Ciphers" in line)
    assert not set("^+-") & {line.split()[1][0]}, "a list that only newer versions can read breaks ssh to every host"


def test_other_hosts_are_left_alone(tmp_path: Path) -> None:
    """The block says nothing about hosts that are no containers, and speaks for container requests too."""
    config = tmp_path / "config"
    config.write_text(ssh_config.block("", str(tmp_path)))
    assert "proxycommand" not in read(config, "example.org")
    assert "proxycommand" in read(config, "zzzzz-xvhdp-abcdeabcdeabcde")
    assert read(config, f"ann@{UUID}")["user"] == "ann"


def test_no_output_dir(client: Run) -> None:
    """A directory that is not there is named, with what to do."""
    process = client("ssh-config", "--output-dir", "/dev/null/x")
    _, err = process.communicate(timeout=UNIT)
    assert process.returncode == 255
    assert err.decode() == (
        "arvados-client: cannot write /dev/null/x/ssh_config: Not a directory; "
        "create its directory first, or name another\n"
    )


def test_output_dir(tmp_path: Path, client: Run) -> None:
    """--output-dir writes ssh_config there, with absolute paths into it, and prints nothing."""
    process = client("ssh-config", "--settings", str(tmp_path / "env"), "--output-dir", str(tmp_path))
    out, err = process.communicate(timeout=UNIT)
    assert (process.returncode, out, err) == (0, b"", b"")
    text = (tmp_path / "ssh_config").read_text()
    assert f"ssh-proxy --settings {tmp_path}/env --known-hosts-dir {tmp_path}/known_hosts" in text
    assert f" --control-dir {tmp_path}/.cache/arvados/cm --user '%r' '%h'" in text
    assert "@" not in text.replace("LOGIN@UUID", "").replace("@openssh.com", "")
    assert [path.name for path in tmp_path.iterdir()] == ["ssh_config"]


def test_printed(tmp_path: Path, client: Run) -> None:
    """Without options the block is printed; it leaves settings to the environment and hosts' keys to the cache."""
    process = client("ssh-config")
    out, err = process.communicate(timeout=UNIT)
    assert (process.returncode, err) == (0, b"")
    assert b"--settings" not in out
    assert f'UserKnownHostsFile "{tmp_path}/.cache/arvados/known_hosts/%h"'.encode() in out


@pytest.mark.parametrize(
    ("stderr", "shared"), [("a terminal", True), ("a pipe", True), ("a file", False), ("a socket", False)]
)
def test_shared_connections(tmp_path: Path, stderr: str, shared: bool) -> None:
    """Connections are shared where a failure's reason still reaches the user, and nowhere else."""
    config = tmp_path / "config"
    config.write_text(ssh_config.block("", str(tmp_path), control_dir=str(tmp_path)[:20]))
    opened: tuple[int, ...] = ()
    if stderr == "a terminal":
        opened = pty.openpty()
    elif stderr == "a pipe":
        opened = os.pipe()
    elif stderr == "a file":
        other = os.open(tmp_path / "stderr", os.O_WRONLY | os.O_CREAT)
    else:
        ours, theirs = socket.socketpair()
        ours.close()
        other = theirs.detach()
    opened = opened or (other,)
    found = read(config, UUID, stderr=opened[-1])
    for descriptor in opened:
        os.close(descriptor)
    assert (found["controlmaster"], found.get("controlpersist")) == (("auto", "60") if shared else ("false", "no"))
    assert ("controlpath" in found) == shared


def test_shared_connections_can_be_off(tmp_path: Path, client: Run) -> None:
    """--no-control-master leaves every word about it out, and the user's own settings in force."""
    out, _ = client("ssh-config", "--no-control-master").communicate(timeout=UNIT)
    assert b"ControlMaster" not in out and b"ControlPath" not in out and b"--control-dir" not in out
    out, _ = client("ssh-config", env={"XDG_CACHE_HOME": "/short"}).communicate(timeout=UNIT)
    assert b"    ControlMaster auto\n" in out


def test_control_socket_with_too_long_a_name(tmp_path: Path) -> None:
    """Where the home's path is too long for a socket, nothing is shared and the block says why; ssh takes the rest."""
    config = tmp_path / "config"
    config.write_text(ssh_config.block("", str(tmp_path), control_dir="/" + 45 * "d"))
    assert "\n# No shared connections: " in config.read_text()
    assert "controlpath" not in read(config, UUID)
    config.write_text(ssh_config.block("", str(tmp_path), control_dir="/" + 44 * "d"))
    assert "\n    ControlMaster auto\n" in config.read_text()


def test_one_cluster(tmp_path: Path, client: Run) -> None:
    """--cluster limits the block to what is that cluster's: containers, requests, names."""
    config = tmp_path / "config"
    config.write_bytes(client("ssh-config", "--cluster", "xyzzy").communicate(timeout=UNIT)[0])
    for host in ("xyzzy-dz642-abcdeabcdeabcde", "xyzzy-xvhdp-abcdeabcdeabcde", "job.xyzzy.arv"):
        assert "proxycommand" in read(config, host)
    for host in (UUID, "job.arv", "xyzzy"):
        assert "proxycommand" not in read(config, host)


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
    [
        (["extra"], b"ssh-config does not take 'extra'; see arvados-client ssh-config --help"),
        (["--nope"], b"unknown option --nope; see arvados-client ssh-config --help"),
        (["--cluster", "zzzzz-dz642"], b"'zzzzz-dz642' is not a cluster id: give the first five characters"),
    ],
)
def test_bad_arguments(client: Run, arguments: list[str], sentence: bytes) -> None:
    """A wrong command line is one line and exit 255."""
    process = client("ssh-config", *arguments)
    _, err = process.communicate(timeout=UNIT)
    assert process.returncode == 255
    assert sentence in err
