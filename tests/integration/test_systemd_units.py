"""The systemd units: systemd takes them as they are, and what they start exists and runs as they say."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from arv_ssh.cli.main import parser as arv_ssh_parser
from arv_ssh.dispatch.local import parser as dispatcher_parser
from arv_ssh.dispatch.slurm.main import parser as slurm_parser
from tests.integration.controllers import start, write_config
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.proxies import TEMPLATES
from tests.timing import DEADLINE

UNITS = (
    "arv-ssh-controller.service", "arv-ssh-controller.socket", "crunch-dispatch-local.service",
    "crunch-dispatch-slurm.service",
)  # fmt: skip
SERVICES = [name for name in UNITS if name.endswith(".service")]
BIN = Path(sys.executable).parent


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units in one directory, with this environment's programs and a config that is there."""
    for name in UNITS:
        text = (TEMPLATES / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/arv-ssh/bin", str(BIN)).replace("docker.service", ""))
    return tmp_path


@pytest.mark.parametrize("name", UNITS)
def test_verify(units: Path, name: str) -> None:
    """systemd-analyze finds nothing wrong: no unknown key, no bad value, no program that is missing."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (in Debian: apt-get install systemd)")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(units / name)],
        capture_output=True, text=True, timeout=DEADLINE, env=os.environ | {"SYSTEMD_LOG_LEVEL": "warning"},
    )  # fmt: skip
    ours = [line for line in (done.stdout + done.stderr).splitlines() if any(unit in line for unit in UNITS)]
    assert done.returncode == 0 and not ours, done.stdout + done.stderr


def test_verify_finds_mistakes(units: Path) -> None:
    """A mistake in a unit would be found."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (in Debian: apt-get install systemd)")
    unit = units / "arv-ssh-controller.service"
    unit.write_text(unit.read_text().replace("KillMode=process", "KillMode=perhaps"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    assert "kill mode" in done.stdout + done.stderr


def command(name: str) -> list[str]:
    """Return the words of a service's ExecStart, without the variable of its EnvironmentFile."""
    (line,) = re.findall("^ExecStart=(.*)$", (TEMPLATES / name).read_text(), re.MULTILINE)
    return [word for word in shlex.split(line) if word != "$OPTIONS"]


def test_command_lines() -> None:
    """The programs know their options."""
    controller = arv_ssh_parser().parse_args(command("arv-ssh-controller.service")[1:])
    assert controller.workers == 2 and controller.leave_draining
    dispatcher = dispatcher_parser().parse_args(command("crunch-dispatch-local.service")[1:])
    slurm = slurm_parser().parse_args(command("crunch-dispatch-slurm.service")[1:])
    assert dispatcher.config == slurm.config == Path("/etc/arvados/config.yml")


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret(name: str) -> None:
    """Neither a unit's environment nor its command line has room for a token."""
    text = (TEMPLATES / name).read_text()
    assert not re.search("^(Environment|PassEnvironment|LoadCredential|SetCredential)=", text, re.MULTILINE)
    assert not re.search("token|secret", " ".join(command(name)), re.IGNORECASE)


def test_notify(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """Type=notify: systemd is told when all workers serve, and that the service stops."""
    config = write_config(cluster, tmp_path, {"Mode": "default-on", "Admin": True, "User": True})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(DEADLINE)
        systemd.bind(str(tmp_path / "notify"))
        wrapper = ["env", f"NOTIFY_SOCKET={tmp_path / 'notify'}"]
        options = ["--listen", "127.0.0.1:0", "--workers", "2", "--leave-draining"]
        with start(cluster, config, tmp_path / "log", options, wrapper) as process:
            assert systemd.recv(100) == b"READY=1"
            assert len(process.events("controller is listening")) == 2
            process.popen.send_signal(signal.SIGTERM)
            assert systemd.recv(100) == b"STOPPING=1"
