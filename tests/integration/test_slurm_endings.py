"""Jobs that a real Slurm ended, each for one of its reasons: what the record says, and that nothing is left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.integration.embedded_cluster import docker_container
from tests.integration.slurm_accounting import slurmdbd
from tests.integration.slurm_cluster import MEMORY_GROUPS, SlurmCluster
from tests.timing import DEADLINE, wait_for

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("orphans_go_to_init")]
GLUTTON = """
import mmap, sys
from pathlib import Path
group = Path(sys.argv[1])
group.joinpath("cgroup.procs").write_text("0")
memory = mmap.mmap(-1, int(group.joinpath("memory.limit_in_bytes").read_text()))
for offset in range(0, len(memory), mmap.PAGESIZE):
    memory[offset] = 1
"""
"""A process of a job that takes all of its memory."""
FORGET = "MinJobAge=2\n"
"""The line of slurm.conf with which squeue forgets a job within seconds of its end."""


def running(slurm: SlurmCluster, **scheduling: object) -> tuple[str, str, str]:
    """Run a container; return its UUID, its job and its node."""
    uuid = slurm.submit(scheduling_parameters=scheduling)["container_uuid"]
    slurm.wait_for_state(uuid, "Running")
    return uuid, slurm.jobs(uuid)[0], slurm.node_of(uuid)


def sentence(job: str, node: str, why: str) -> str:
    """Return the beginning of a record's reason."""
    return f"Slurm ended job {job} on node {node}: {why} while the container was running; its log is crunch-run.txt"


@contextmanager
def urgent_job(slurm: SlurmCluster, node: str) -> Iterator[None]:
    """Have Slurm find room on a node, and all of it, for a job of a partition with precedence."""
    options = ["--parsable", "--partition=high", "--exclusive", "--mem=0", f"--nodelist={node}", "--chdir=/",
               "--output=/dev/null", "--wrap=exec sleep 1000"]  # fmt: skip
    job = slurm.ask("sbatch", *options).strip()
    try:
        yield
    finally:
        slurm.ask("scancel", job)


@pytest.fixture(scope="module")
def late(slurm: SlurmCluster) -> tuple[str, str, str]:
    """A container whose job is at its time limit. Slurm looks at these twice a minute; the other tests do not wait."""
    result = running(slurm, max_run_time=61)
    assert slurm.ask("squeue", f"--jobs={result[1]}", "--noheader", "--format=%l").strip() == "2:00"
    slurm.ask("scontrol", "update", f"JobId={result[1]}", "EndTime=now+1")
    return result


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("partition", ["low", "requeued"])
def test_preemption(slurm: SlurmCluster, partition: str) -> None:
    """An urgent job takes the place, whatever PreemptMode says of the partition: the job is over, and not run again."""
    uuid, job, node = running(slurm, partitions=[partition])
    with urgent_job(slurm, node):
        assert slurm.error(uuid).startswith(sentence(job, node, "a job of higher priority took its place (PREEMPTED)"))
        assert slurm.jobs(uuid) == [job]


@pytest.mark.skipif(not MEMORY_GROUPS.exists(), reason="needs control groups of version 1")
def test_out_of_memory(slurm: SlurmCluster) -> None:
    """A job that takes more memory than it asked for ends as the kernel says, and the record has it from Slurm."""
    uuid, job, node = running(slurm)
    group = MEMORY_GROUPS / f"slurm_{node}" / "uid_0" / f"job_{job}" / "step_batch"
    title = f"crunch-run {uuid}".encode()
    for pid in (group / "task_0" / "cgroup.procs").read_text().split():
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title):
            Path(f"/proc/{pid}/oom_score_adj").write_text("1000")  # whom the kernel kills first
    subprocess.run([sys.executable, "-c", GLUTTON, str(group)], timeout=DEADLINE)
    assert slurm.error(uuid).startswith(
        sentence(job, node, "it used more memory than it had asked for (OUT_OF_MEMORY)")
    )
    wait_for(lambda: slurm.is_settled(uuid))
    assert docker_container(uuid) == ""


def submitted(slurm: SlurmCluster, uuid: str, times: int) -> bool:
    """Say whether a container has had so many jobs."""
    return len(slurm.jobs(uuid)) == times


def test_scancel_of_a_job_that_waits(slurm: SlurmCluster) -> None:
    """A container whose waiting job an administrator cancels is submitted again, as often as the config says."""
    slurm.ask("scontrol", "update", "nodename=ALL", "state=drain", "reason=test")
    try:
        uuid = slurm.submit()["container_uuid"]
        for attempt in range(1, 6):
            wait_for(partial(submitted, slurm, uuid, attempt), "another job")
            jobs = slurm.jobs(uuid)
            assert slurm.container(uuid)["state"] == "Locked"
            slurm.ask("scancel", jobs[-1])
        reason = slurm.error(uuid)
    finally:
        slurm.ask("scontrol", "update", "nodename=ALL", "state=resume")
    assert reason.startswith(
        f"crunch-run ended 5 times before the container was running, the last time because Slurm ended job {jobs[-1]}: "
        "somebody cancelled it in Slurm (CANCELLED)"
    )


def test_time_limit(slurm: SlurmCluster, late: tuple[str, str, str]) -> None:
    """A job that reaches its time limit leaves a record that says so, nothing on its node, and is not run again."""
    uuid, job, node = late
    assert slurm.error(uuid).startswith(sentence(job, node, "it reached its time limit (TIMEOUT)"))
    wait_for(slurm.is_settled)
    assert (slurm.jobs(uuid), docker_container(uuid)) == ([job], "")


def test_a_job_that_ended_while_the_dispatcher_was_down(slurm: SlurmCluster, tmp_path: Path) -> None:
    """What squeue has forgotten is told by slurmdbd; where that has no end of the job, by Slurm's completion file."""
    spooled, accounted = running(slurm), running(slurm)
    slurm.kill_dispatcher()
    slurm.ask("scancel", spooled[1])
    with (slurm.slurm.root / "slurm.conf").open("a") as conf:
        conf.write(FORGET)
    slurm.ask("scontrol", "reconfigure")
    with slurmdbd(slurm, tmp_path) as lines:
        wait_for(lambda: not slurm.jobs(spooled[0]), "Slurm to forget a job that slurmdbd never saw")
        with slurm.changed(lines + FORGET):
            slurm.ask("scancel", accounted[1])
            wait_for(lambda: not slurm.jobs(accounted[0]), "Slurm to forget the other one")
            slurm.up()
            for (uuid, job, node), state in ((spooled, "CANCELLED"), (accounted, "CANCELLED by 0")):
                assert slurm.error(uuid).startswith(sentence(job, node, f"somebody cancelled it in Slurm ({state})"))
            wait_for(slurm.is_settled)
