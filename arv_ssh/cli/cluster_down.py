"""``arv-ssh cluster down``: stop what ``cluster up`` started, containers included.

Owns the order: no new containers, the containers' crunch-runs (they record Cancelled while the controller still
answers), what dead crunch-runs left, then the controller. Doing it twice is harmless.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from arv_ssh.cli import cluster_slurm, daemons
from arv_ssh.cli.cluster_dir import ClusterDir
from arv_ssh.cli.cluster_slurm import SlurmNodes
from arv_ssh.cli.cluster_up import root_client
from arv_ssh.config import cluster_config
from arv_ssh.errors import ArvSshError
from arv_ssh.processes import process_lock

CRUNCH_RUN_GRACE = 30.0
"""Seconds for a crunch-run to stop and remove its container and to record that."""

CLEAN_UP_TIMEOUT = 90.0


def down(directory: ClusterDir) -> dict[str, Any]:
    """Stop the cluster in ``directory``; raise, after stopping the rest, when something could not be removed."""
    directory.check()
    directory.prepare()
    with directory.exclusive():
        if process_lock.is_held(directory.controller_lock):
            _cancel_requests(directory)
        slurm = cluster_slurm.load(directory)
        if slurm is not None:
            _wait_for_jobs(directory, slurm)
        process_lock.end(directory.dispatcher_lock, daemons.STOP_GRACE)
        if slurm is not None:
            slurm.stop()
        failures = _end_containers(directory.crunch_run_locks()) + _clean_up_nodes(directory)
        process_lock.end(directory.controller_lock, daemons.STOP_GRACE)
    if failures:
        raise ArvSshError(f"the cluster is stopped, but {'; '.join(failures)}")
    return {"dir": str(directory.root), "state": "down"}


def _cancel_requests(directory: ClusterDir) -> None:
    """Take every request's priority away, so that a later ``up`` does not run what was asked for before."""
    try:
        api = root_client(directory, cluster_config.load(directory.config))
        wanted: list[list[Any]] = [["state", "=", "Committed"], ["priority", ">", 0]]
        for request in api.list_all("container_requests", filters=wanted, select=["uuid"]):
            api.update("container_requests", request["uuid"], {"priority": 0})
    except ArvSshError as error:
        print(
            f"arv-ssh: cannot cancel the container requests; their containers end anyway: {error}",
            file=sys.stderr,
        )


def _wait_for_jobs(directory: ClusterDir, slurm: SlurmNodes) -> None:
    """Give the dispatcher time to end the cancelled containers' jobs and to record that."""
    deadline = time.monotonic() + CRUNCH_RUN_GRACE
    with suppress(ArvSshError, subprocess.TimeoutExpired):
        while process_lock.is_held(directory.dispatcher_lock) and time.monotonic() < deadline:
            if not slurm.jobs() and not directory.slurm_attempts():
                return
            time.sleep(0.1)


def _clean_up_nodes(directory: ClusterDir) -> list[str]:
    """Remove what is left of containers whose jobs did not end by themselves; return what could not be done.

    All nodes of this cluster share the machine's engine.
    """
    left = directory.slurm_attempts()
    owners = {path: path.name.partition(".")[0].partition("@")[0] for path in left}
    failures = _remove(sorted(set(owners.values())))
    for path, uuid in owners.items():
        if uuid not in failures:
            path.unlink(missing_ok=True)
    return list(failures.values())


def _end_containers(locks: list[Path]) -> list[str]:
    """End every crunch-run, remove what is left of its container; return what could not be done."""
    for lock in locks:
        process_lock.send_signal(lock, signal.SIGTERM)
    for lock in locks:
        process_lock.end(lock, CRUNCH_RUN_GRACE)
    failures = _remove([lock.stem for lock in locks])
    for lock in locks:
        if lock.stem in failures:
            continue
        held = process_lock.acquire(lock)
        if held:
            held.discard()
    return list(failures.values())


def _remove(uuids: list[str]) -> dict[str, str]:
    """Remove what is left of containers, all at once; return by UUID what could not be done."""
    cleaners = {
        uuid: subprocess.Popen(  # noqa: S603 - our own program
            [str(daemons.program("crunch-run")), "--clean-up", uuid], stderr=subprocess.PIPE, text=True
        )
        for uuid in uuids
    }
    failures = {}
    for uuid, cleaner in cleaners.items():
        try:
            _, complaint = cleaner.communicate(timeout=CLEAN_UP_TIMEOUT)
        except subprocess.TimeoutExpired:
            cleaner.kill()
            _, complaint = cleaner.communicate()
            complaint = complaint or f"removing container {uuid} took longer than {CLEAN_UP_TIMEOUT:.0f} s"
        if cleaner.returncode:
            failures[uuid] = complaint.strip().removeprefix("crunch-run: ")
    return failures
