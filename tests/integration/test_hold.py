"""A container whose program failed: kept up for its owner, entered with stock ssh; and what is left of it then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from arv_ssh.cli import cluster_up
from arv_ssh.config import cluster_config
from arv_ssh.trust import credentials
from tests.integration.conftest import Ssh
from tests.integration.embedded_cluster import EmbeddedCluster, docker, docker_container
from tests.timing import DEADLINE, SECOND, wait_for

FAILS = ("sh", "-c", "echo saved > /tmp/file; echo told; exit 3")
A_THREADS_EXIT = "import os, threading; threading.Thread(target=lambda: os._exit(9)).start()"
HOUR = 3600


def holding(root: Path, seconds: float) -> EmbeddedCluster:
    """Return a cluster, not yet up, that keeps failed containers up for ``seconds`` at most."""
    result = EmbeddedCluster(root)
    result.directory.prepare()
    cluster_up._write_config(result.directory)
    written = yaml.safe_load(result.directory.config.read_text())
    (section,) = written["Clusters"].values()
    section["Containers"]["ShellAccess"]["HoldOnFailure"] = seconds
    result.directory.config.write_text(yaml.safe_dump(written))
    return result


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """A cluster that keeps failed containers up for an hour at most."""
    result = holding(tmp_path_factory.mktemp("hold") / "cluster", HOUR)
    result.up()
    yield result
    result.down()


@pytest.fixture(scope="module")
def ssh(cluster: EmbeddedCluster) -> Ssh:
    """Run stock ssh in that cluster."""
    return Ssh(cluster)


def run(cluster: EmbeddedCluster, *command: str, hold: float, image: str = "arv-ssh/busybox:test") -> str:
    """Run a command in a container that asks to be kept up; return the container's UUID."""
    return cluster.run(*command, options=("--hold-on-failure", str(hold)), image=image)


def wait_for_hold(cluster: EmbeddedCluster, uuid: str) -> dict[str, Any]:
    """Wait until a container's program has failed and it is kept up; return its record."""
    return wait_for(
        lambda: record if "activity" in (record := cluster.container(uuid))["runtime_status"] else None, "the hold"
    )


def test_held_and_entered(cluster: EmbeddedCluster, ssh: Ssh) -> None:
    """A failed container is entered as while it ran, and its record says why it is there; cancelled, it is Complete."""
    uuid = run(cluster, *FAILS, hold=HOUR)
    record = wait_for_hold(cluster, uuid)
    assert (record["state"], record["exit_code"]) == ("Running", 3)
    assert record["runtime_status"]["error"] == "the program failed (exit 3)"
    assert f"ssh {uuid}" in record["runtime_status"]["activity"]
    done = ssh(uuid, "cat /tmp/file; tr '\\0' '\\n' < /proc/1/environ | grep PATH=; hostname; kill -9 1; echo up")
    assert done.stdout.decode().splitlines()[0] == "saved"
    assert f"\n{uuid}\nup\n" in done.stdout.decode()
    with ssh.on_terminal("-tt", uuid) as terminal:
        terminal.expect("# ")
        cluster.api().update("containers", uuid, {"priority": 0})
        terminal.expect(f":11: container {uuid} has ended (exit 3)")
    record = cluster.wait_for_state(uuid, "Complete")
    assert (record["exit_code"], record["runtime_status"]) == (3, {})
    assert cluster.log_text(uuid, "stdout.txt") == "told\n"
    log = cluster.log_text(uuid, "crunch-run.txt")
    assert "the program failed; keeping its container up" in log and '"reason": "SIGTERM"' in log
    wait_for(lambda: not docker_container(uuid), "the container's removal")


@pytest.mark.parametrize(
    ("image", "command", "exit_code"),
    [
        ("arv-ssh/scratch:test", ("busybox", "false"), 1),
        ("arv-ssh/debian:test", ("python3", "-c", A_THREADS_EXIT), 9),
        ("arv-ssh/debian:test", ("sh", "-c", "tail /dev/zero; exit $?"), 137),
        ("arv-ssh/debian:test", ("tail", "/dev/zero"), 137),
        ("arv-ssh/busybox:test", ("sh", "-c", "sleep 1000 & exec /bin/sh -c 'exit 5'"), 5),
    ],
    ids=["no shell", "a thread's exit", "a child out of memory", "out of memory", "a child left behind"],
)  # fmt: skip
def test_every_failure(
    cluster: EmbeddedCluster, ssh: Ssh, tmp_path: Path, image: str, command: tuple[str, ...], exit_code: int
) -> None:
    """However a program fails, in whatever image, its container is kept up; docker stop ends that."""
    uuid = run(cluster, *command, hold=HOUR, image=image)
    assert wait_for_hold(cluster, uuid)["exit_code"] == exit_code
    assert ssh(uuid, "/bin/busybox true" if "scratch" in image else "true").returncode == 0
    docker("stop", "--time", "60", docker_container(uuid))
    record = cluster.wait_for_state(uuid, "Complete")
    assert (record["exit_code"], record["runtime_status"]) == (exit_code, {})


def test_a_session_keeps_it_up(cluster: EmbeddedCluster, ssh: Ssh) -> None:
    """A session from before the failure goes on after it, and keeps the container up until it leaves."""
    uuid = run(cluster, "sh", "-c", "until [ -e /tmp/fail ]; do sleep 0.1; done; exit 3", hold=0.5)
    with ssh.start(uuid, "echo in; touch /tmp/fail; cat") as session:
        assert session.stdout and session.stdin and session.stdout.readline() == b"in\n"
        wait_for_hold(cluster, uuid)
        time.sleep(1.5 * SECOND)  # three times the hold
        assert cluster.container(uuid)["state"] == "Running"
        session.stdin.write(b"still here\n")
        session.stdin.close()
        assert session.stdout.read() == b"still here\n" and session.wait(DEADLINE) == 0
    assert cluster.wait_for_state(uuid, "Complete")["exit_code"] == 3
    assert '"reason": "its time is over"' in cluster.log_text(uuid, "crunch-run.txt")


def test_not_for_ever(tmp_path: Path) -> None:
    """An abandoned session does not keep a container up for longer than the site allows."""
    cluster = holding(tmp_path / "cluster", 2.0)
    cluster.up()
    try:
        uuid = run(cluster, "sh", "-c", "until [ -e /tmp/fail ]; do sleep 0.1; done; exit 3", hold=HOUR)
        with Ssh(cluster).start(uuid, "touch /tmp/fail; sleep 1000") as session:
            _, stderr = session.communicate(timeout=DEADLINE)
        assert f"arv-ssh: container {uuid} has ended (exit 3)" in stderr.decode()
        assert cluster.wait_for_state(uuid, "Complete")["exit_code"] == 3
        assert '"reason": "its time is over, with sessions in it"' in cluster.log_text(uuid, "crunch-run.txt")
    finally:
        cluster.down()


@pytest.mark.parametrize(("code", "hold"), [(0, HOUR), (3, 0)])
def test_not_held(cluster: EmbeddedCluster, ssh: Ssh, code: int, hold: float) -> None:
    """A program that succeeds, or that was not asked to wait, ends as ever; who enters hears what is left."""
    uuid = run(cluster, "sh", "-c", f"exit {code}", hold=hold)
    record = cluster.wait_for_state(uuid, "Complete")
    assert (record["exit_code"], record["runtime_status"]) == (code, {})
    said = ssh(uuid, "true").stderr.decode()
    assert f"container {uuid} has ended (Complete, exit {code}, " in said
    assert f"; its log is in {cluster.directory.container_log / uuid} on its node" in said
    hint = "with hold_on_failure: 3600 in its runtime_constraints, the next one that fails waits for you"
    assert (hint in said) == bool(code)


@pytest.mark.parametrize("hold", [0, HOUR])
def test_who_is_traced(cluster: EmbeddedCluster, hold: float) -> None:
    """Only a container that asks to be kept up has a first process that is traced, by its crunch-run."""
    uuid = run(cluster, "sleep", "1000", hold=hold)
    pid = docker("inspect", "--format", "{{.State.Pid}}", docker_container(uuid))
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (tracer,) = (int(line.split()[1]) for line in lines if line.startswith("TracerPid:"))
    assert (tracer != 0) == bool(hold)
    cluster.api().update("containers", uuid, {"priority": 0})
    assert cluster.wait_for_state(uuid, "Cancelled")["runtime_status"] == {}


def test_killed_crunch_run(cluster: EmbeddedCluster) -> None:
    """A hold does not outlive its crunch-run, however that ends."""
    uuid = run(cluster, *FAILS, hold=HOUR)
    wait_for_hold(cluster, uuid)
    os.kill(cluster.crunch_run_pid(uuid), signal.SIGKILL)
    record = cluster.wait_for_state(uuid, "Cancelled")
    assert record["exit_code"] == 3
    wait_for(lambda: not docker_container(uuid), "the container's removal")


def test_a_command_that_does_not_exist(cluster: EmbeddedCluster) -> None:
    """What the engine cannot start is an error as ever: there is nothing to keep up, and nothing waits for it."""
    done = cluster.arv_ssh("run", "--image", "arv-ssh/busybox:test", "--hold-on-failure", "60", "--", "/no/such")
    assert done.returncode == 1 and "/no/such" in done.stderr


def test_killed_from_outside(cluster: EmbeddedCluster) -> None:
    """A container that an administrator kills is not kept up."""
    uuid = run(cluster, "sleep", "1000", hold=HOUR)
    docker("kill", docker_container(uuid))
    record = cluster.wait_for_state(uuid, "Complete")
    assert (record["exit_code"], record["runtime_status"]) == (137, {})


@pytest.fixture
def by_the_engine(cluster: EmbeddedCluster) -> Iterator[str]:
    """A failed container that is kept up and whose gateway executes through the engine's API; its UUID."""
    uuid = run(cluster, *FAILS, hold=HOUR)
    wait_for_hold(cluster, uuid)
    secret = credentials.container_secret(cluster_config.load(cluster.directory.config).system_root_token, uuid)
    command = [
        str(Path(sys.executable).with_name("crunch-sshd")), "--container-uuid", uuid, "--runtime", "docker",
        "--docker-container", docker_container(uuid), "--gateway-auth-secret", "env:SECRET",
    ]  # fmt: skip
    environment = os.environ | {"SECRET": secret}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as gateway:
        assert gateway.stdout is not None
        cluster.api().update("containers", uuid, {"gateway_address": gateway.stdout.readline().strip()})
        yield uuid
        gateway.terminate()
    cluster.api().update("containers", uuid, {"priority": 0})
    cluster.wait_for_state(uuid, "Complete")


def test_entered_through_the_engine(ssh: Ssh, by_the_engine: str, tmp_path: Path) -> None:
    """The engine takes a container that is kept up as running: commands, terminals and files work."""
    assert ssh(by_the_engine, "cat /tmp/file").stdout == b"saved\n"
    with ssh.on_terminal("-tt", by_the_engine) as terminal:
        terminal.expect("# ")
    copied = ["scp", *ssh.command()[1:], f"{by_the_engine}:/tmp/file", str(tmp_path)]
    assert subprocess.run(copied, timeout=DEADLINE).returncode == 0
    assert (tmp_path / "file").read_text() == "saved\n"
