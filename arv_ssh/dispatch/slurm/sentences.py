"""What a user reads of Slurm: why a job ended, and which constraint keeps it from ever starting. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from arv_ssh.dispatch.slurm.arguments import Needs
from arv_ssh.dispatch.slurm.commands import Job, Node

ENDINGS = {
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not boot",
    "TIMEOUT": "it reached its time limit",
    "DEADLINE": "it reached its deadline",
    "OUT_OF_MEMORY": "it used more memory than it had asked for",
    "PREEMPTED": "a job of higher priority took its place",
    "CANCELLED": "somebody cancelled it in Slurm",
    "REVOKED": "somebody cancelled it in Slurm",
    "LAUNCH_FAILED": "its node could not start it",
}
HOPELESS = {
    "PartitionTimeLimit": "its max_run_time is longer than its partition allows",
    "BadConstraints": "no node has what it asks for",
    "InvalidAccount": "Slurm does not know its account",
    "InvalidQOS": "Slurm does not know its quality of service",
    "AccountNotAllowed": "its partition does not allow its account",
    "QOSNotAllowed": "its partition does not allow its quality of service",
    "launch failed requeued held": "its node could not start it",
}
"""What keeps a waiting job from ever starting, by squeue's reason."""


def ending(job: int, state: str, node: str) -> str:
    """Say why a job ended; ``state`` is squeue's or sacct's ("CANCELLED by 0")."""
    where = f" on node {node}" if node else ""
    word = state.split()[0].rstrip("+") if state.split() else ""
    if word in ENDINGS:
        return f"Slurm ended job {job}{where}: {ENDINGS[word]} ({state})"
    return f"crunch-run, Slurm's job {job}{where}, ended unexpectedly{f' ({state})' if state else ''}"


def hopeless(job: Job) -> str:
    """Say why a waiting job will never start; "" when it may."""
    why = HOPELESS.get(job.reason, "") if job.is_waiting else ""
    return f"it cannot run: {why} (Slurm's job {job.id}: {job.reason}); change its container request" if why else ""


def too_large(wanted: Needs, nodes: Sequence[Node]) -> str:
    """Name the constraints that no node of its partitions meets; "" when one meets them all."""
    if not nodes or any(_fits(wanted, node) for node in nodes):
        return ""
    where = f" of partition {','.join(wanted.partitions)}" if wanted.partitions else ""
    most = {
        "vcpus": (wanted.vcpus, max(node.cpus for node in nodes), ""),
        "memory": (wanted.memory, max(node.memory for node in nodes), " MB"),
        "disk": (wanted.disk, max(node.disk for node in nodes), " MB"),
    }
    over = [
        f"{asked}{unit} of {name} (the largest node{where} has {has}{unit})" if unit else
        f"{asked} {name} (the largest node{where} has {has})"
        for name, (asked, has, unit) in most.items() if asked > has
    ]  # fmt: skip
    together = f"{wanted.vcpus} vcpus and {wanted.memory} MB of memory, which no node{where} has together"
    return f"it asks for {' and '.join(over) or together}; change its container request"


def _fits(wanted: Needs, node: Node) -> bool:
    return wanted.vcpus <= node.cpus and wanted.memory <= node.memory and (wanted.disk <= node.disk or not wanted.disk)
