"""Who else has a hand in Slurm: its other users, users' requests, an administrator, and answers that are cut short."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration.embedded_cluster import docker_container
from tests.integration.slurm_cluster import SlurmCluster
from tests.timing import DEADLINE, wait_for

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("orphans_go_to_init")]
NOBODY = 65534


def sbatch_as_nobody(slurm: SlurmCluster, *arguments: str) -> str:
    """Submit a job as another user, held for ever; return its number. He may pass through the tests' directories."""
    passing = ["--inh-caps=+dac_override,+dac_read_search", "--ambient-caps=+dac_override,+dac_read_search"]
    done = subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *passing, "sbatch", "--parsable",
         "--hold", "--chdir=/", "--output=/dev/null", *arguments],
        input="#!/bin/sh\nsleep 1000\n", capture_output=True, text=True, timeout=DEADLINE,
        env=os.environ | slurm.slurm.environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def finish(slurm: SlurmCluster, request: dict[str, str]) -> None:
    """Cancel a request; wait until the dispatcher has nothing left to do."""
    slurm.cancel(request)
    slurm.error(request["container_uuid"])
    wait_for(slurm.is_settled)
    assert docker_container(request["container_uuid"]) == ""


@contextmanager
def drained(slurm: SlurmCluster, nodes: str = "ALL") -> Iterator[None]:
    """Have no node, or not those, start anything."""
    slurm.ask("scontrol", "update", f"nodename={nodes}", "state=drain", "reason=test")
    try:
        yield
    finally:
        slurm.ask("scontrol", "update", f"nodename={nodes}", "state=resume")


def test_another_users_jobs(slurm: SlurmCluster) -> None:
    """Jobs of others are nothing to the dispatcher: odd names, parts, or the names of containers and clean-ups."""
    request = slurm.submit(priority=0)
    uuid = request["container_uuid"]
    names = [uuid, f"{uuid}-clean-up", "two\nlines", "a|b", "zzzzz-dz642-../x"]
    jobs = [sbatch_as_nobody(slurm, f"--job-name={name}") for name in names]
    jobs += [sbatch_as_nobody(slurm, "--ntasks=1", ":", "--ntasks=1"), sbatch_as_nobody(slurm, "--array=0-3")]
    try:
        slurm.api().update("container_requests", request["uuid"], {"priority": 500})
        slurm.wait_for_state(uuid, "Running")
        assert slurm.ssh(uuid, "echo on").stdout == "on\n"
        finish(slurm, request)
        states = slurm.ask("squeue", "--noheader", f"--user={NOBODY}", "--array", "--format=%T").split()
        assert states == ["PENDING"] * (len(names) + 2 + 4)
    finally:
        slurm.ask("scancel", f"--user={NOBODY}")


@pytest.mark.parametrize(
    ("constraints", "scheduling", "sentence"),
    [
        ({"ram": 10**400}, {}, "its ram is 1000"),
        ({"vcpus": 2**32 + 1}, {}, "its vcpus is 4294967297, which is more than Slurm can count"),
        ({}, {"max_run_time": 10**400}, "its max_run_time is 1000"),
        ({}, {"partitions": ["p" * 20] * 20_000}, "name 20000 partitions"),
        ({}, {"partitions": ["main\n#SBATCH --uid=0"]}, "cannot be one of Slurm's"),
    ],
    ids=["ram", "vcpus", "time", "partitions", "script"],
)  # fmt: skip
def test_a_request_stops_nobody_else(
    slurm: SlurmCluster, constraints: dict[str, object], scheduling: dict[str, object], sentence: str
) -> None:
    """What no job can have ends that container alone, with a short sentence; the next one runs."""
    odd = slurm.submit(priority=1000, runtime_constraints=constraints, scheduling_parameters=scheduling)
    good = slurm.submit("true", priority=1)["container_uuid"]
    reason = slurm.error(odd["container_uuid"])
    assert sentence in reason and len(reason) < 300
    assert slurm.wait_for_state(good, "Complete")["exit_code"] == 0
    wait_for(slurm.is_settled)


@pytest.mark.parametrize("answer", ["exit 0", "/usr/bin/squeue \"$@\" | head -c 20; exit 0"], ids=["empty", "half"])
def test_squeue_is_cut_short(slurm: SlurmCluster, answer: str) -> None:
    """A queue that lacks a job which Slurm has ends nothing: what runs goes on."""
    request = slurm.submit()
    uuid = request["container_uuid"]
    slurm.wait_for_state(uuid, "Running")
    log = slurm.directory.log / "dispatcher.log"
    seen = log.stat().st_size
    with slurm.playing("squeue", f'case "$*" in *--jobs=*) ;; *) {answer};; esac\n'):
        wait_for(lambda: "squeue left out" in log.read_text()[seen:] or "not a line of" in log.read_text()[seen:])
        assert slurm.ssh(uuid, "echo on").stdout == "on\n"
    wait_for(lambda: "polling works again" in log.read_text()[seen:])
    assert slurm.container(uuid)["state"] == "Running"
    assert len(slurm.jobs(uuid)) == 1
    finish(slurm, request)


def test_an_administrators_hand(slurm: SlurmCluster) -> None:
    """A job may be held, released, called otherwise and suspended; it cannot be requeued, and nothing is lost."""
    with drained(slurm):
        request = slurm.submit()
        uuid = request["container_uuid"]
        wait_for(lambda: slurm.jobs(uuid, "PENDING") != [])
        (job,) = slurm.jobs(uuid)
        slurm.ask("scontrol", "hold", job)
        slurm.ask("scontrol", "update", f"JobId={job}", "JobName=mine")
    beside = slurm.submit("true")["container_uuid"]  # the dispatcher has looked several times once this is over
    slurm.wait_for_state(beside, "Complete")
    assert (slurm.container(uuid)["state"], slurm.container(uuid)["lock_count"]) == ("Locked", 1)
    slurm.ask("scontrol", "release", job)
    slurm.wait_for_state(uuid, "Running")
    requeue = subprocess.run(
        ["scontrol", "requeue", job], capture_output=True, text=True, timeout=DEADLINE,
        env=os.environ | slurm.slurm.environment,
    )  # fmt: skip
    assert requeue.returncode and "disabled" in requeue.stderr
    slurm.ask("scontrol", "suspend", job)
    assert slurm.ssh(uuid, "echo on").stdout == "on\n"
    slurm.ask("scontrol", "resume", job)
    finish(slurm, request)


def test_a_drained_node(slurm: SlurmCluster) -> None:
    """What runs on a node that is drained goes on, with new sessions, and can be cancelled; others start elsewhere."""
    requests = [slurm.submit()]
    uuid = requests[0]["container_uuid"]
    slurm.wait_for_state(uuid, "Running")
    with drained(slurm, slurm.node_of(uuid)):
        requests += [slurm.submit() for _ in slurm.slurm.names()[1:]]
        for request in requests[1:]:
            slurm.wait_for_state(request["container_uuid"], "Running")
            assert slurm.node_of(request["container_uuid"]) != slurm.node_of(uuid)
        assert slurm.ssh(uuid, "echo on").stdout == "on\n"
        slurm.cancel(requests[0])
        assert slurm.error(uuid) == ""
    for request in requests[1:]:
        slurm.cancel(request)
        slurm.error(request["container_uuid"])
    wait_for(slurm.is_settled)
