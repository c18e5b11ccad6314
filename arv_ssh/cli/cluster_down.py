"""``arv-ssh cluster down``: stop what ``cluster up`` started, containers included.

Owns the order: no new containers, the containers' crunch-runs (they record Cancelled while the controller still
answers), what dead crunch-runs left, then the controller. Doing it twice is harmless.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from arv_ssh.cli import daemons
from arv_ssh.cli.cluster_dir import ClusterDir
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
        process_lock.end(directory.dispatcher_lock, daemons.STOP_GRACE)
        failures = _end_containers(directory.crunch_run_locks())
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


def _end_containers(locks: list[Path]) -> list[str]:
    """End every crunch-run, remove what is left of its container; return what could not be done."""
    for lock in locks:
        process_lock.send_signal(lock, signal.SIGTERM)
    for lock in locks:
        process_lock.end(lock, CRUNCH_RUN_GRACE)
    cleaners = [
        subprocess.Popen(  # noqa: S603 - our own program
            [str(daemons.program("crunch-run")), "--clean-up", lock.stem], stderr=subprocess.PIPE, text=True
        )
        for lock in locks
    ]
    failures = []
    for lock, cleaner in zip(locks, cleaners, strict=True):
        try:
            _, complaint = cleaner.communicate(timeout=CLEAN_UP_TIMEOUT)
        except subprocess.TimeoutExpired:
            cleaner.kill()
            _, complaint = cleaner.communicate()
            complaint = complaint or f"removing container {lock.stem} took longer than {CLEAN_UP_TIMEOUT:.0f} s"
        if cleaner.returncode:
            failures.append(complaint.strip().removeprefix("crunch-run: "))
            continue
        held = process_lock.acquire(lock)
        if held:
            held.discard()
    return failures
