"""Containers as jobs of a real Slurm, and stock ssh into them: where they run, in which order, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from arv_ssh.config import cluster_config
from arv_ssh.trust import credentials
from tests.integration.embedded_cluster import docker_container
from tests.integration.slurm_cluster import NODES, SlurmCluster
from tests.timing import DEADLINE, wait_for

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("orphans_go_to_init")]
ARVADOS_CLIENT = str(Path(sys.executable).with_name("arvados-client"))


def test_a_session_on_each_node(slurm: SlurmCluster) -> None:
    """Four containers run on four nodes; ssh enters each at its node's address, and ls shows the node's name."""
    requests = [slurm.submit() for _ in range(NODES)]
    uuids = [request["container_uuid"] for request in requests]
    for uuid in uuids:
        slurm.wait_for_state(uuid, "Running")
        assert slurm.ssh(uuid, "hostname").stdout == f"{uuid}\n"
    assert sorted(map(slurm.node_of, uuids)) == slurm.slurm.names()
    settings = ["--settings", str(slurm.directory.env)]
    listed = subprocess.run(
        [ARVADOS_CLIENT, "ls", "--json", *settings], capture_output=True, text=True, timeout=DEADLINE
    )
    assert listed.returncode == 0, listed.stderr
    assert {row["node"] for row in json.loads(listed.stdout) if row["uuid"] in uuids} == set(slurm.slurm.names())
    for request in requests:
        slurm.cancel(request)
    for uuid in uuids:
        assert slurm.error(uuid) == ""
    wait_for(slurm.is_settled)
    assert {docker_container(uuid) for uuid in uuids} == {""}


def test_exit_status_and_output(slurm: SlurmCluster) -> None:
    """A container that ends by itself is Complete with its exit status; its log is where the dispatcher says."""
    request = slurm.submit("sh", "-c", "echo out; exit 7")
    uuid = request["container_uuid"]
    assert slurm.wait_for_state(uuid, "Complete")["exit_code"] == 7
    assert slurm.log_text(uuid, "stdout.txt") == "out\n"
    wait_for(slurm.is_settled)
    assert len(slurm.jobs(uuid)) == 1


def test_nothing_secret_is_shown(slurm: SlurmCluster) -> None:
    """Neither secret nor token is in what Slurm shows of a job, in any argument list, or in a file for others."""
    request = slurm.submit()
    uuid = request["container_uuid"]
    slurm.wait_for_state(uuid, "Running")
    (job,) = slurm.jobs(uuid)
    root_token = cluster_config.load(slurm.directory.config).system_root_token
    token = slurm.api().container_auth(uuid)["api_token"]
    secrets = [credentials.container_secret(root_token, uuid), token, root_token]
    shown = slurm.ask("scontrol", "show", "job", "--details", job)
    shown += slurm.ask("squeue", f"--jobs={job}", "--format=%all") + slurm.ask("ps", "-eww", "-o", "args")
    # This user may pass through the test's own directories, which are root's, to slurm.conf and munge's socket.
    passing = ["--inh-caps=+dac_override,+dac_read_search", "--ambient-caps=+dac_override,+dac_read_search"]
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *passing]
    refused = subprocess.run(
        [*as_nobody, "scontrol", "write", "batch_script", job, "-"], capture_output=True, text=True, timeout=DEADLINE,
        env=os.environ | slurm.slurm.environment,
    )  # fmt: skip
    assert "Invalid user id" in refused.stdout + refused.stderr
    shown += refused.stdout + refused.stderr
    assert uuid in shown
    assert [secret for secret in secrets if secret in shown] == []
    scripts = list(slurm.slurm.root.glob(f"spool-*/job{int(job):05}/slurm_script"))
    assert [path.stat().st_mode & 0o077 for path in scripts] == [0]
    slurm.cancel(request)
    slurm.error(uuid)


def queue(slurm: SlurmCluster) -> list[str]:
    """Return the containers whose jobs wait, the next one first."""
    lines = slurm.ask("squeue", "--noheader", "--states=PENDING", "--sort=-p,i", "--format=%j").split()
    return [line for line in lines if "clean-up" not in line]


def test_the_order_of_those_that_wait(slurm: SlurmCluster) -> None:
    """Jobs wait in the order of priorities, also after one changes; drained nodes start none, and then the first."""
    slurm.ask("scontrol", "update", "nodename=ALL", "state=drain", "reason=test")
    try:
        requests = [slurm.submit(priority=priority) for priority in (5, 900, 300)]
        low, high, middle = (request["container_uuid"] for request in requests)
        wait_for(lambda: queue(slurm) == [high, middle, low], "the order of priorities")
        slurm.api().update("container_requests", requests[0]["uuid"], {"priority": 1000})
        wait_for(lambda: queue(slurm) == [low, high, middle], "the new order")
        for request in requests[1:]:
            slurm.cancel(request)
        wait_for(lambda: queue(slurm) == [low], "the cancelled ones to leave")
        assert slurm.container(low)["state"] == "Locked"
    finally:
        slurm.ask("scontrol", "update", "nodename=ALL", "state=resume")
    slurm.wait_for_state(low, "Running")
    slurm.cancel(requests[0])
    slurm.error(low)
    wait_for(slurm.is_settled)


def test_an_administrators_scancel(slurm: SlurmCluster) -> None:
    """A job that an administrator cancels in Slurm leaves a record that says so, and no container."""
    uuid = slurm.submit()["container_uuid"]
    slurm.wait_for_state(uuid, "Running")
    (job,) = slurm.jobs(uuid)
    slurm.ask("scancel", job)
    reason = slurm.error(uuid)
    assert reason.startswith(f"Slurm ended job {job} on node n")
    assert "somebody cancelled it in Slurm (CANCELLED) while the container was running" in reason
    wait_for(slurm.is_settled)
    assert docker_container(uuid) == ""


@pytest.mark.parametrize(
    ("constraints", "scheduling", "sentence"),
    [
        ({"vcpus": 4096}, {}, f"it asks for 4096 vcpus (the largest node has {os.cpu_count()})"),
        ({"ram": 1 << 40}, {}, "it asks for 1048576 MB of memory (the largest node has 4000 MB)"),
        ({}, {"partitions": ["nowhere"]}, "invalid partition specified: nowhere"),
        ({}, {"partitions": ["a b"]}, "name the partition 'a b', which cannot be one of Slurm's"),
        ({"gpu": {"device_count": 2}}, {}, "Invalid generic resource (gres) specification"),
        ({}, {"partitions": ["short"], "max_run_time": 86400}, "max_run_time is longer than its partition allows"),
    ],
    ids=["vcpus", "memory", "partition", "partition's name", "gpu", "time limit"],
)  # fmt: skip
def test_what_no_node_can_run(
    slurm: SlurmCluster, constraints: dict[str, object], scheduling: dict[str, object], sentence: str
) -> None:
    """A container that can never run is Cancelled with a sentence that names the constraint; it does not wait."""
    if scheduling.get("partitions") == ["short"]:
        slurm.ask("scontrol", "create", "partitionname=short", "nodes=ALL", "maxtime=10")
    uuid = slurm.submit(runtime_constraints=constraints, scheduling_parameters=scheduling)["container_uuid"]
    assert sentence in slurm.error(uuid)
    wait_for(lambda: slurm.jobs(uuid, "PENDING,RUNNING") == [])
    wait_for(slurm.is_settled)
