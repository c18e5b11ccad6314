"""The local dispatcher and crunch-run on a real cluster: what survives, what is cancelled, what is left."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from arv_ssh.config import cluster_config
from arv_ssh.processes import process_lock
from arv_ssh.trust import credentials
from tests.integration.embedded_cluster import EmbeddedCluster, docker, docker_container
from tests.timing import wait_for


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    cluster = EmbeddedCluster(tmp_path_factory.mktemp("cluster"))
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture
def cluster(shared: EmbeddedCluster) -> Iterator[EmbeddedCluster]:
    """Return a cluster that is up; a test may end its processes."""
    yield shared
    shared.up()


def kill(lock: Path) -> None:
    """Kill the process that holds a lock, and wait until it is gone."""
    assert process_lock.send_signal(lock, signal.SIGKILL)
    wait_for(lambda: not process_lock.is_held(lock))


def test_a_container_that_ends(cluster: EmbeddedCluster) -> None:
    """Exit status and log are recorded, the output is in the log directory, and nothing is left."""
    uuid = cluster.run("sh", "-c", "echo out; echo err >&2; exit 3")
    record = cluster.wait_for_state(uuid, "Complete")
    assert (record["exit_code"], record["log"]) == (3, (cluster.directory.container_log / uuid).as_uri())
    assert (cluster.log_text(uuid, "stdout.txt"), cluster.log_text(uuid, "stderr.txt")) == ("out\n", "err\n")
    assert docker_container(uuid) == ""
    wait_for(lambda: not cluster.crunch_run_lock(uuid).exists())


def test_commands_that_are_over_at_once(cluster: EmbeddedCluster) -> None:
    """A command that ends before its gateway is up is Complete all the same, every time."""
    for status in range(5):
        uuid = cluster.run("sh", "-c", f"exit {status}")
        assert cluster.wait_for_state(uuid, "Complete")["exit_code"] == status


def test_no_secret_is_shown(cluster: EmbeddedCluster) -> None:
    """Neither crunch-run's arguments, environment and log, nor the container's environment hold a secret."""
    uuid = cluster.run("sleep", "600")
    root_token = cluster_config.load(cluster.directory.config).system_root_token
    process = Path(f"/proc/{cluster.crunch_run_pid(uuid)}")
    shown = (process / "cmdline").read_text() + (process / "environ").read_text()
    shown += cluster.log_text(uuid, "crunch-run.txt") + docker("inspect", uuid)
    shown += (cluster.directory.log / "dispatcher.log").read_text()
    assert root_token not in shown
    assert credentials.container_secret(root_token, uuid) not in shown
    assert "v2/" not in shown


def test_a_dead_crunch_run(cluster: EmbeddedCluster) -> None:
    """When crunch-run is killed its container becomes Cancelled with a reason, and is removed."""
    uuid = cluster.run("sleep", "600")
    kill(cluster.crunch_run_lock(uuid))
    record = cluster.wait_for_state(uuid, "Cancelled")
    assert "crunch-run ended unexpectedly" in record["runtime_status"]["error"]
    wait_for(lambda: docker_container(uuid) == "")
    wait_for(lambda: not cluster.crunch_run_lock(uuid).exists())


def test_sigterm_to_crunch_run(cluster: EmbeddedCluster) -> None:
    """A crunch-run that is told to end stops and removes its container and records Cancelled itself."""
    uuid = cluster.run("sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    os.kill(cluster.crunch_run_pid(uuid), signal.SIGTERM)
    record = cluster.wait_for_state(uuid, "Cancelled")
    assert docker_container(uuid) == ""
    assert not (record["runtime_status"] or {}).get("error")


def test_priority_0(cluster: EmbeddedCluster) -> None:
    """A request whose priority becomes 0 has its running container cancelled and removed."""
    uuid = cluster.run("sleep", "600")
    api = cluster.api()
    request = api.list("container_requests", filters=[["container_uuid", "=", uuid]])["items"][0]
    api.update("container_requests", request["uuid"], {"priority": 0})
    cluster.wait_for_state(uuid, "Cancelled")
    wait_for(lambda: docker_container(uuid) == "")


def test_a_restart_of_the_dispatcher(cluster: EmbeddedCluster) -> None:
    """Killed and started again, the dispatcher finds its container where it was: not lost, not doubled."""
    uuid = cluster.run("sleep", "600")
    pid, docker_id = cluster.crunch_run_pid(uuid), docker_container(uuid)
    kill(cluster.directory.dispatcher_lock)
    cluster.up()
    other = cluster.run("true")
    cluster.wait_for_state(other, "Complete")
    assert (cluster.crunch_run_pid(uuid), docker_container(uuid)) == (pid, docker_id)
    assert cluster.container(uuid)["state"] == "Running"
    assert cluster.ssh(uuid, "hostname").stdout == f"{uuid}\n"


def test_what_happened_while_the_dispatcher_was_away(cluster: EmbeddedCluster) -> None:
    """A container ends as Complete without a dispatcher; one whose crunch-run died is Cancelled when it is back."""
    ending = cluster.run("sh", "-c", "until [ -e /tmp/go ]; do sleep 0.1; done; exit 5")
    dying = cluster.run("sleep", "600")
    kill(cluster.directory.dispatcher_lock)
    kill(cluster.crunch_run_lock(dying))
    docker("exec", ending, "touch", "/tmp/go")
    assert cluster.wait_for_state(ending, "Complete")["exit_code"] == 5
    assert cluster.container(dying)["state"] == "Running"
    cluster.up()
    cluster.wait_for_state(dying, "Cancelled")
    wait_for(lambda: docker_container(dying) == "")
    for uuid in (ending, dying):
        wait_for(partial(lambda uuid: not cluster.crunch_run_lock(uuid).exists(), uuid))


def test_an_api_outage(cluster: EmbeddedCluster) -> None:
    """A container that ends while the controller is away is recorded when it is back; the dispatcher goes on."""
    uuid = cluster.run("sh", "-c", "until [ -e /tmp/go ]; do sleep 0.1; done; exit 6")
    dispatcher = process_lock.holder_pid(cluster.directory.dispatcher_lock)
    kill(cluster.directory.controller_lock)
    docker("exec", uuid, "touch", "/tmp/go")
    wait_for(lambda: docker_container(uuid) == "")
    cluster.up()
    assert cluster.wait_for_state(uuid, "Complete")["exit_code"] == 6
    assert process_lock.holder_pid(cluster.directory.dispatcher_lock) == dispatcher
    assert cluster.ssh(cluster.run("sleep", "600"), "echo on").stdout == "on\n"


def test_options_reach_the_container(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """Image, user, working directory, environment and mounts of ``cluster run`` are the container's."""
    (tmp_path / "file").write_text("content")
    tmp_path.chmod(0o755)
    options = ("--user", "crunch", "--cwd", "/etc", "--env", "A=b", "--mount", f"{tmp_path}:/mnt:ro")
    uuid = cluster.run("sh", "-c", "id -un; pwd; echo $A; cat /mnt/file", options=options)
    cluster.wait_for_state(uuid, "Complete")
    assert cluster.log_text(uuid, "stdout.txt") == "crunch\n/etc\nb\ncontent"


def test_each_run_has_a_container_of_its_own_unless_reuse(cluster: EmbeddedCluster) -> None:
    """The same command twice gives two containers; with --reuse the second gets the first's."""
    first, second = cluster.run("sleep", "601"), cluster.run("sleep", "601")
    assert first != second
    assert cluster.run("sleep", "601", options=("--reuse",)) in (first, second)


def test_told_of_changes(cluster: EmbeddedCluster) -> None:
    """The API tells the dispatcher when to look, and again after the controller was killed and is back."""
    log = cluster.directory.log / "dispatcher.log"

    def told() -> int:
        return log.read_text().count('"msg": "the API tells of changes"')

    wait_for(told)
    before = told()
    kill(cluster.directory.controller_lock)
    cluster.up()
    wait_for(lambda: told() > before)
    cluster.wait_for_state(cluster.run("true"), "Complete")
