"""``arv-ssh cluster``: up, run, down, and what they say when something is wrong."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from arv_ssh.api.client import ApiClient
from arv_ssh.processes import process_lock
from tests.integration.embedded_cluster import BUSYBOX, EmbeddedCluster, docker_container
from tests.timing import DEADLINE, wait_for


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[EmbeddedCluster]:
    """Return a cluster that is not started yet; it is stopped after the test."""
    result = EmbeddedCluster(tmp_path / "cluster")
    yield result
    if result.directory.config.exists():
        result.down()


def is_running(cluster: EmbeddedCluster) -> bool:
    locks = (cluster.directory.controller_lock, cluster.directory.dispatcher_lock)
    return any(process_lock.is_held(lock) for lock in locks)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the sentence of a command that failed; it must be the only one."""
    assert done.returncode != 0
    assert done.stderr.startswith("arv-ssh: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_up_run_ssh_down(cluster: EmbeddedCluster) -> None:
    """After up and run, stock ssh gets in with DIR/ssh_config alone; down leaves no process and no container."""
    facts = cluster.up()
    uuid = cluster.run("sleep", "600")
    assert cluster.ssh(uuid, "echo in").stdout == "in\n"
    crunch_run = cluster.crunch_run_lock(uuid)
    cluster.down()
    assert not is_running(cluster)
    assert docker_container(uuid) == ""
    assert not crunch_run.exists()
    assert all(not Path(f"/proc/{pid}/exe").exists() for pid in facts["pids"].values())
    assert cluster.down()["state"] == "down"


def test_files(cluster: EmbeddedCluster) -> None:
    """up writes what design names: tokens that work and nobody else can read, env, ssh_config, ca.pem, logs."""
    facts = cluster.up()
    directory = cluster.directory
    for user, uuid in facts["users"].items():
        path = Path(facts["tokens"][user])
        assert path == directory.tokens / user and path.stat().st_mode & 0o777 == 0o600
        found = ApiClient(facts["api_url"], path.read_text().strip(), verify=facts["ca"]).current_user()
        assert (found["uuid"], found["is_admin"]) == (uuid, user == "admin")
    assert f"export ARVADOS_API_HOST={facts['api_host']}\n" in directory.env.read_text()
    assert directory.env.stat().st_mode & 0o777 == directory.config.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in directory.log.glob("*.log")} == {"controller.log", "dispatcher.log"}
    assert directory.root.stat().st_mode & 0o777 == 0o700


def test_up_twice(cluster: EmbeddedCluster) -> None:
    """A second up starts nothing, says that the cluster is up, and prints the same."""
    facts = cluster.up()
    again = cluster.arv_ssh("up")
    assert json.loads(again.stdout) == facts
    assert "is already up" in again.stderr


def test_up_after_down(cluster: EmbeddedCluster) -> None:
    """A cluster that was stopped comes back with its tokens, and does not run again what was asked for before."""
    first = cluster.up()
    token = Path(first["tokens"]["active"]).read_text()
    cluster.run("sleep", "600")
    cluster.down()
    second = cluster.up()
    assert Path(second["tokens"]["active"]).read_text() == token
    uuid = cluster.run("true")
    cluster.wait_for_state(uuid, "Complete")
    states = {record["uuid"]: record["state"] for record in cluster.api().list("containers")["items"]}
    assert sorted(states.values()) == ["Cancelled", "Complete"]


def test_down_ends_containers_of_a_crashed_cluster(cluster: EmbeddedCluster) -> None:
    """With controller, dispatcher and crunch-run killed, down still removes the container."""
    cluster.up()
    uuid = cluster.run("sleep", "600")
    locks = (cluster.directory.dispatcher_lock, cluster.directory.controller_lock, cluster.crunch_run_lock(uuid))
    for lock in locks:
        process_lock.send_signal(lock, signal.SIGKILL)
        wait_for(partial(lambda lock: not process_lock.is_held(lock), lock))
    assert docker_container(uuid)
    cluster.down()
    assert docker_container(uuid) == ""


def test_a_failing_up_leaves_nothing_running(cluster: EmbeddedCluster) -> None:
    """When the controller cannot start, up says why in one line with the end of its log, and nothing is left."""
    cluster.directory.database.mkdir(parents=True)
    assert "the controller ended while starting; its log says:" in one_line(cluster.arv_ssh("up"))
    assert not is_running(cluster)


def test_no_docker_engine(tmp_path: Path) -> None:
    """Without an engine up warns in a sentence, and a container is Cancelled with that reason."""
    cluster = EmbeddedCluster(tmp_path / "cluster", {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    try:
        started = cluster.arv_ssh("up")
        assert started.returncode == 0
        assert "does not answer" in started.stderr
        done = cluster.arv_ssh("run", "--image", BUSYBOX, "--", "true")
        assert "was Cancelled: the Docker engine" in one_line(done)
        assert "does not answer" in done.stderr
    finally:
        # The clean-up cannot ask the engine either: down says so, and ends the processes all the same.
        cluster.arv_ssh("down")
        assert not is_running(cluster)


def test_an_image_that_does_not_exist(cluster: EmbeddedCluster) -> None:
    """run tells the reason of a container that was Cancelled, and still prints its UUID."""
    cluster.up()
    done = cluster.arv_ssh("run", "--image", "arv-ssh/none:test", "--", "true")
    assert "the image arv-ssh/none:test" in one_line(done)
    assert cluster.container(json.loads(done.stdout)["container_uuid"])["state"] == "Cancelled"


def test_run_gives_up_and_cancels(cluster: EmbeddedCluster) -> None:
    """A container that does not get to Running in time is told with its state, and is not run later."""
    cluster.up()
    process_lock.end(cluster.directory.dispatcher_lock, DEADLINE)
    done = cluster.arv_ssh("run", "--image", BUSYBOX, "--timeout", "0.5", "--", "true")
    assert "is still Queued after 0.5 s" in one_line(done)
    assert [request["priority"] for request in cluster.api().list("container_requests")["items"]] == [0]


def test_ctrl_c_cancels(cluster: EmbeddedCluster) -> None:
    """Ctrl-C while waiting takes the request back and ends with 130."""
    cluster.up()
    process_lock.end(cluster.directory.dispatcher_lock, DEADLINE)
    command = [*cluster.command("run"), "--image", BUSYBOX, "--", "true"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as waiting:
        api = cluster.api()
        wait_for(lambda: api.list("container_requests")["items"])
        os.kill(waiting.pid, signal.SIGINT)
        _, stderr = waiting.communicate(timeout=DEADLINE)
    assert waiting.returncode == 130
    assert "cancelled container request" in stderr
    assert [request["priority"] for request in api.list("container_requests")["items"]] == [0]


def test_a_foreign_process_is_never_ended(cluster: EmbeddedCluster) -> None:
    """A pid left in a lock file that nobody holds is not signalled, whoever has it now."""
    cluster.up()
    cluster.down()
    with subprocess.Popen(["sleep", "600"]) as foreign:
        cluster.directory.controller_lock.write_text(f"{foreign.pid}\n")
        cluster.down()
        assert foreign.poll() is None
        foreign.kill()
