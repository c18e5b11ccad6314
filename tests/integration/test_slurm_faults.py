"""What breaks around the dispatcher of a real Slurm: itself, slurmctld, sbatch, a node; nothing is lost or doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arv_ssh.cli import daemons
from tests.integration.embedded_cluster import docker_container
from tests.integration.slurm_cluster import SlurmCluster
from tests.timing import DEADLINE, wait_for

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("orphans_go_to_init")]
DISPATCHER = str(Path(sys.executable).with_name("crunch-dispatch-slurm"))


def finish(slurm: SlurmCluster, *uuids: str) -> None:
    """End containers by their requests; wait until the dispatcher has nothing left to do."""
    for request in slurm.api().list_all("container_requests", filters=[["container_uuid", "in", list(uuids)]]):
        if request["state"] == "Committed":
            slurm.cancel(request)
    wait_for(lambda: all(slurm.container(uuid)["state"] in ("Complete", "Cancelled") for uuid in uuids))
    wait_for(slurm.is_settled)


def test_the_dispatcher_is_killed(slurm: SlurmCluster) -> None:
    """After kill -9 a new dispatcher goes on with the jobs that wait, run, and end meanwhile; none is doubled."""
    running = slurm.submit()["container_uuid"]
    slurm.wait_for_state(running, "Running")
    with slurm.playing("sbatch", "touch \"$0.asked\"; sleep 2\n"):
        asked = slurm.directory.root.with_name("played") / "sbatch.asked"
        submitted = slurm.submit("true")["container_uuid"]
        wait_for(asked.exists, "the dispatcher to be amid submitting")
        slurm.kill_dispatcher()
    later = slurm.submit("sh", "-c", "exit 3")["container_uuid"]
    slurm.up()
    assert slurm.wait_for_state(later, "Complete")["exit_code"] == 3
    assert slurm.wait_for_state(submitted, "Complete")["exit_code"] == 0
    assert slurm.ssh(running, "echo on").stdout == "on\n"
    assert [len(slurm.jobs(uuid)) for uuid in (running, submitted, later)] == [1, 1, 1]
    finish(slurm, running)


def test_slurmctld_is_away(slurm: SlurmCluster) -> None:
    """While slurmctld is down sessions go on, what is submitted waits, and no attempt is counted; then it runs."""
    running = slurm.submit()["container_uuid"]
    slurm.wait_for_state(running, "Running")
    slurm.stop_slurmctld()
    waiting = slurm.submit("true")["container_uuid"]
    log = slurm.directory.log / "dispatcher.log"
    wait_for(lambda: "a poll failed; trying again" in log.read_text()[-3000:], "the dispatcher to notice")
    assert slurm.ssh(running, "echo on").stdout == "on\n"
    assert slurm.container(waiting)["state"] in ("Queued", "Locked")
    slurm.up()
    assert slurm.wait_for_state(waiting, "Complete")["lock_count"] <= 1
    assert (len(slurm.jobs(running)), len(slurm.jobs(waiting))) == (1, 1)
    finish(slurm, running)


def test_sbatch_fails_for_a_while(slurm: SlurmCluster) -> None:
    """A job that certainly was not submitted is submitted again with the same lock: no attempt is counted."""
    said = "sbatch: error: Unable to contact slurm controller (connect failure)"
    with slurm.playing("sbatch", f"echo '{said}' >&2; exit 1"):
        uuid = slurm.submit("true")["container_uuid"]
        slurm.wait_for_state(uuid, "Locked")
        log = slurm.directory.log / "dispatcher.log"
        wait_for(lambda: "sbatch failed" in log.read_text()[-3000:], "the dispatcher to notice")
    assert slurm.wait_for_state(uuid, "Complete")["lock_count"] == 1
    assert len(slurm.jobs(uuid)) == 1
    finish(slurm, uuid)


@pytest.mark.parametrize("first", ["/usr/bin/sbatch \"$@\" >/dev/null; echo 'Bonjour!'; exit 0", "sleep 3"],
                         ids=["odd answer", "slow"])  # fmt: skip
def test_sbatch_answers_oddly_or_late(slurm: SlurmCluster, first: str) -> None:
    """A job whose number sbatch did not tell is found in the queue by its name, and not submitted twice."""
    with slurm.playing("sbatch", first):
        uuid = slurm.submit("true")["container_uuid"]
        assert slurm.wait_for_state(uuid, "Complete")["lock_count"] == 1
    assert len(slurm.jobs(uuid)) == 1
    finish(slurm, uuid)


def test_a_refusal_that_may_pass(slurm: SlurmCluster) -> None:
    """A job refused for an account's limit is tried again as often as the config says; the record has Slurm's words."""
    said = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit)"
    with slurm.playing("sbatch", f"echo 'sbatch: error: {said}' >&2; exit 1"):
        uuid = slurm.submit()["container_uuid"]
        reason = slurm.error(uuid)
    assert "crunch-run ended 5 times before the container was running" in reason
    assert "Job violates accounting/QOS policy (job submit limit)" in reason
    finish(slurm, uuid)


def test_slurms_programs_are_missing(slurm: SlurmCluster, tmp_path: Path) -> None:
    """A dispatcher without Slurm's programs says which one it lacks, and how to get it."""
    done = subprocess.run(
        [DISPATCHER, "--config", str(slurm.directory.config), "--state-dir", str(tmp_path / "state")],
        capture_output=True, text=True, timeout=DEADLINE, env={"PATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 78
    assert done.stderr.endswith("cannot execute sbatch; install Slurm's programs on this machine (in Debian: "
                                "slurm-client) and put them in the dispatcher's PATH\n")  # fmt: skip


def test_two_dispatchers(slurm: SlurmCluster, tmp_path: Path) -> None:
    """A second dispatcher with the same state is refused; one with its own doubles nothing and cancels nothing."""
    options = ["--config", str(slurm.directory.config), "--log-dir", str(slurm.directory.container_log)]
    environ = daemons.environment(SSL_CERT_FILE=str(slurm.directory.ca), **slurm.slurm.environment)
    done = subprocess.run(
        [DISPATCHER, *options, "--state-dir", str(slurm.directory.dispatch_state)],
        capture_output=True, text=True, timeout=DEADLINE, env=environ,
    )  # fmt: skip
    assert (done.returncode, "another crunch-dispatch-slurm (pid" in done.stderr) == (78, True)
    command = [DISPATCHER, *options, "--state-dir", str(tmp_path / "state")]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, env=environ, stderr=log) as second:
        try:
            wait_for(lambda: "dispatcher is polling" in (tmp_path / "log").read_text())
            uuids = [slurm.submit("true")["container_uuid"] for _ in range(6)]
            for uuid in uuids:
                assert slurm.wait_for_state(uuid, "Complete")["lock_count"] == 1
            assert [len(slurm.jobs(uuid)) for uuid in uuids] == [1] * 6
        finally:
            second.send_signal(signal.SIGTERM)
    finish(slurm)


def test_a_node_fails(slurm: SlurmCluster) -> None:
    """A node without power ends its sessions and its container within a minute; what is left goes when it is back."""
    uuid = slurm.submit()["container_uuid"]
    slurm.wait_for_state(uuid, "Running")
    node = slurm.node_of(uuid)
    command = ["ssh", "-F", str(slurm.directory.ssh_config), uuid, "echo ready; exec sleep 1000"]
    with subprocess.Popen(
        command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as user:
        assert user.stdout and user.stdout.readline() == "ready\n"
        slurm.slurm.kill_node(node)
        failed = time.monotonic()
        try:
            _, said = user.communicate(timeout=DEADLINE)
            seconds = time.monotonic() - failed
            reason = slurm.error(uuid)
        finally:
            slurm.up()
    assert user.returncode == 255
    ssh_says = (f"Connection to {uuid} closed by remote host.\n", "send disconnect: Broken pipe\n")
    assert said.endswith(ssh_says), said  # the second, if it was about to write when it heard
    print(f"the session ended {seconds:.0f} s after its node")
    assert f"on node {node}: its node failed (NODE_FAIL) while the container was running" in reason
    wait_for(lambda: docker_container(uuid) == "", "the node to be cleaned up", 2 * DEADLINE)
    wait_for(slurm.is_settled, "the dispatcher to forget it", 2 * DEADLINE)
    assert os.path.exists(slurm.directory.dispatch_state)
