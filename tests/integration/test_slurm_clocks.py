"""Clocks that differ by ten minutes: of the node of a container, and of the dispatcher's machine, with a real munge."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.slurm_cluster import SlurmCluster
from tests.timing import wait_for

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("orphans_go_to_init")]


CLOCK = """
import time
real = time.time
time.time = lambda: real() + {seconds}
"""
"""Python's clock is moved from inside: faketime cannot move it and leave clock_nanosleep alone."""


def running(slurm: SlurmCluster, seconds: int, directory: Path) -> str:
    """Run a container with crunch-run and its gateway by a clock that is ahead, or behind; return its UUID."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(CLOCK.format(seconds=seconds))
    with slurm.playing("sbatch", f"export PYTHONPATH={directory}\n"):
        uuid = slurm.submit()["container_uuid"]
        slurm.wait_for_state(uuid, "Running")
    return str(uuid)


def test_a_nodes_clock(slurm: SlurmCluster, tmp_path: Path) -> None:
    """A node ahead takes no sessions and says why; one behind takes them. Both run containers, and end them."""
    ahead, behind = running(slurm, 600, tmp_path / "ahead"), running(slurm, -600, tmp_path / "behind")
    refused = slurm.ssh(ahead, "echo in")
    assert (refused.returncode, refused.stdout) == (255, "")
    sentence = r"the session has expired, (\d+) s ago by the clock of the container's node; check that clock and "
    said = re.search(sentence + "the controller's", refused.stderr)
    assert said and 540 <= int(said.group(1)) < 600, refused.stderr
    assert slurm.ssh(behind, "echo in; exit 3").returncode == 3
    for uuid in (ahead, behind):
        (request,) = slurm.api().list_all("container_requests", filters=[["container_uuid", "=", uuid]])
        slurm.cancel(request)
    assert [slurm.error(uuid) for uuid in (ahead, behind)] == ["", ""]


@pytest.fixture
def another_clock(slurm: SlurmCluster, tmp_path: Path) -> Iterator[Path]:
    """A slurm.conf whose munged is ten minutes ahead."""
    ours = slurm.slurm.root / "munge"
    files = [f"--{kind}={tmp_path}/{kind}" for kind in ("socket", "pid-file", "log-file", "seed-file")]
    # Not by the program faketime, which would be munged's parent and not pass signals on.
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    faked = {"LD_PRELOAD": str(library), "FAKETIME": "+10m", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    environ = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin"} | faked
    conf, socket = tmp_path / "slurm.conf", tmp_path / "socket"
    text = (slurm.slurm.root / "slurm.conf").read_text()
    conf.write_text(text.replace(f"socket={ours}/socket", f"socket={socket}"))
    command = ["munged", "--foreground", "--force", f"--key-file={ours}/key", *files]
    with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as munged:
        try:
            wait_for(socket.exists, "munged's socket")
            yield conf
        finally:
            munged.terminate()


def test_the_dispatchers_clock(slurm: SlurmCluster, another_clock: Path) -> None:
    """While munge refuses the dispatcher nothing is decided, and its log says what to check; then the work goes on."""
    log = slurm.directory.log / "dispatcher.log"
    before = log.stat().st_size
    other = f"export SLURM_CONF={another_clock}\n"
    with slurm.playing("squeue", other), slurm.playing("sbatch", other):
        uuid = slurm.submit("true")["container_uuid"]
        wait_for(lambda: "and their clocks" in log.read_text()[before:], "the dispatcher to say it")
        assert slurm.container(uuid)["state"] == "Queued"
    assert "a poll failed; trying again" in log.read_text()[before:]
    assert slurm.wait_for_state(uuid, "Complete")["lock_count"] == 1
