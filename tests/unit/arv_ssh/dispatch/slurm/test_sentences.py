import pytest

from arv_ssh.dispatch.slurm import sentences
from arv_ssh.dispatch.slurm.arguments import Needs
from arv_ssh.dispatch.slurm.commands import Job, Node

NEEDS = Needs("u", vcpus=2, memory=100, disk=0, gpus=0, minutes=0, partitions=(), preemptible=False)


@pytest.mark.parametrize(
    ("state", "node", "sentence"),
    [
        ("TIMEOUT", "n1", "Slurm ended job 7 on node n1: it reached its time limit (TIMEOUT)"),
        ("OUT_OF_MEMORY", "n1", "Slurm ended job 7 on node n1: it used more memory than it had asked for "
         "(OUT_OF_MEMORY)"),
        ("PREEMPTED", "n1", "Slurm ended job 7 on node n1: a job of higher priority took its place (PREEMPTED)"),
        ("CANCELLED by 0", "", "Slurm ended job 7: somebody cancelled it in Slurm (CANCELLED by 0)"),
        ("CANCELLED+", "", "Slurm ended job 7: somebody cancelled it in Slurm (CANCELLED+)"),
        ("FAILED", "n1", "crunch-run, Slurm's job 7 on node n1, ended unexpectedly (FAILED)"),
        ("", "", "crunch-run, Slurm's job 7, ended unexpectedly"),
    ],
)  # fmt: skip
def test_endings(state: str, node: str, sentence: str) -> None:
    """Each way in which Slurm ends a job has its sentence."""
    assert sentences.ending(7, state, node) == sentence


def test_hopeless() -> None:
    """A waiting job that its partition never lets begin is hopeless; one that waits for a node is not."""
    job = Job(7, 1, 0, "PENDING", "", "main", "u", "PartitionTimeLimit")
    assert sentences.hopeless(job).startswith("it cannot run: its max_run_time is longer than its partition allows")
    assert sentences.hopeless(Job(7, 1, 0, "PENDING", "", "main", "u", "Resources")) == ""


def test_what_fits_nowhere() -> None:
    """Of two constraints that each fit somewhere, but not together, both are named; without nodes nothing is known."""
    assert sentences.too_large(NEEDS, [Node(2, 100, 0)]) == ""
    assert sentences.too_large(NEEDS, []) == ""
    assert "2 vcpus and 100 MB of memory, which no node has together" in sentences.too_large(
        NEEDS, [Node(1, 200, 0), Node(4, 50, 0)]
    )
