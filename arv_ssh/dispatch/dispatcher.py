"""What to do about each container: start, requeue, cancel, clean up.

Owns the decisions, made afresh at every poll from two facts that survive any restart: the container's record, and
whether the lock file of its crunch-run is held (:mod:`arv_ssh.processes.process_lock`). One dispatcher serves a
cluster: every container locked with our token is ours. Knows nothing of processes beyond the two calls of
:class:`Runner`; runs in one thread.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from arv_ssh import log, uuids
from arv_ssh.api.client import ApiClient
from arv_ssh.errors import ArvSshError, BadGateway, GatewayTimeout, NotFound, Unavailable
from arv_ssh.processes import process_lock
from arv_ssh.processes.process_lock import ProcessLock

logger = logging.getLogger(__name__)

KILL_AFTER = 60.0
"""Seconds between SIGTERM and SIGKILL for a crunch-run whose container is cancelled: its own steps take about ten."""

CLEAN_UP_AGAIN = 15.0
"""Seconds until a clean-up that failed (no Docker engine) is tried again."""

_FIELDS = ["uuid", "state", "priority", "locked_by_uuid", "lock_count", "created_at"]


class Runner(Protocol):
    """Starts a crunch-run that inherits ``lock``."""

    def start(self, lock: ProcessLock, uuid: str, token: str) -> subprocess.Popen[bytes]: ...

    def clean_up(self, lock: ProcessLock, uuid: str) -> subprocess.Popen[bytes]: ...


class Dispatcher:
    """The containers of one cluster on one machine. ``in_use`` are those that the last poll did not find settled."""

    def __init__(self, api: ApiClient, runner: Runner, state_dir: Path, max_attempts: int) -> None:
        self._api = api
        self._runner = runner
        self._state_dir = state_dir
        self._max_attempts = max_attempts
        self._me: str | None = None
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._cleaning: dict[str, float] = {}
        self._told_to_end: dict[str, float] = {}
        self.in_use: frozenset[str] = frozenset()

    def poll(self) -> None:
        """Look at every container once and act. Raises when the API cannot be reached, which loses nothing."""
        self._reap()
        if self._me is None:
            self._me = str(self._api.get("api_client_authorizations", "current")["uuid"])
        live = self._api.list_all(
            "containers", filters=[["state", "in", ["Queued", "Locked", "Running"]]], select=_FIELDS
        )
        mine = [record for record in live if record["state"] != "Queued" and record["locked_by_uuid"] == self._me]
        waiting = [record for record in live if record["state"] == "Queued" and record["priority"]]
        for record in mine:
            self._attempt(record["uuid"], partial(self._watch, record))
        known = {record["uuid"] for record in mine + waiting}
        for uuid in sorted(self._tracked() - known):
            self._attempt(uuid, partial(self._settle, uuid))
        for record in sorted(waiting, key=lambda record: (-record["priority"], record["created_at"], record["uuid"])):
            self._attempt(record["uuid"], partial(self._start, record["uuid"]))
        self.in_use = frozenset(self._tracked().union(record["uuid"] for record in live))

    def _attempt(self, uuid: str, step: Callable[[], None]) -> None:
        """Do one container's step; a failure is logged and does not hold up other containers."""
        try:
            step()
        except (BadGateway, GatewayTimeout, Unavailable):
            raise
        except ArvSshError as error:
            log.event(
                logger, "cannot handle a container", level=logging.WARNING, container_uuid=uuid, error=str(error)
            )

    def _path(self, uuid: str) -> Path:
        return self._state_dir / f"{uuid}.lock"

    def _tracked(self) -> set[str]:
        """Return the containers that have a lock file: a crunch-run lives, or something may be left to clean up."""
        return {path.stem for path in self._state_dir.glob("*.lock") if uuids.is_container(path.stem)}

    def _reap(self) -> None:
        """Collect the children that have ended; one that succeeded leaves nothing to watch or clean up."""
        for uuid, child in list(self._children.items()):
            status = child.poll()
            if status is None:
                continue
            del self._children[uuid]
            log.event(logger, "crunch-run has ended", container_uuid=uuid, status=status)
            if status == 0:
                self._forget(uuid)

    def _forget(self, uuid: str) -> None:
        self._cleaning.pop(uuid, None)
        self._told_to_end.pop(uuid, None)
        lock = process_lock.acquire(self._path(uuid))
        if lock:
            lock.discard()

    def _start(self, uuid: str) -> None:
        """Lock a Queued container and start its crunch-run."""
        lock = process_lock.acquire(self._path(uuid))
        if lock is None:
            return  # an earlier crunch-run of the same container is still leaving
        with lock:
            try:
                self._api.lock(uuid)
            except ArvSshError:
                lock.discard()
                raise
            auth = self._api.container_auth(uuid)
            token = f"v2/{auth['uuid']}/{auth['api_token']}"
            self._children[uuid] = self._runner.start(lock, uuid, token)
        log.event(logger, "started crunch-run", container_uuid=uuid, pid=self._children[uuid].pid)

    def _watch(self, record: dict[str, Any]) -> None:
        """Look after a Locked or Running container of ours."""
        uuid, state = record["uuid"], record["state"]
        if process_lock.is_held(self._path(uuid)):
            if not record["priority"]:
                self._end(uuid)
        elif state == "Running":
            self._cancel(uuid, "crunch-run ended unexpectedly while the container was running")
            self._clean_up(uuid)
        elif record["priority"] and (record["lock_count"] or 0) >= self._max_attempts:
            self._cancel(uuid, f"crunch-run ended {record['lock_count']} times before the container was running")
            self._clean_up(uuid)
        else:
            self._api.unlock(uuid)
            log.event(logger, "put back into the queue: crunch-run ended before it ran", container_uuid=uuid)

    def _cancel(self, uuid: str, reason: str) -> None:
        error = f"{reason}; its log is crunch-run.txt in the dispatcher's log directory for {uuid}"
        self._api.update("containers", uuid, {"state": "Cancelled", "runtime_status": {"error": error}})
        log.event(logger, "cancelled a container", level=logging.WARNING, container_uuid=uuid, reason=reason)

    def _settle(self, uuid: str) -> None:
        """Settle a container that is no longer live: end a cancelled crunch-run, clean up after a dead one."""
        if not process_lock.is_held(self._path(uuid)):
            self._clean_up(uuid)
        elif uuid not in self._cleaning and self._is_cancelled(uuid):
            self._end(uuid)

    def _is_cancelled(self, uuid: str) -> bool:
        try:
            return bool(self._api.get("containers", uuid, select=["uuid", "state"])["state"] == "Cancelled")
        except NotFound:
            return True

    def _end(self, uuid: str) -> None:
        """Ask a crunch-run once to end, and kill it if it does not."""
        now = time.monotonic()
        since = self._told_to_end.get(uuid)
        if since is None:
            self._told_to_end[uuid] = now
            sent = process_lock.send_signal(self._path(uuid), signal.SIGTERM)
            log.event(logger, "asked crunch-run to end", container_uuid=uuid, sent=sent)
        elif now - since > KILL_AFTER:
            self._told_to_end[uuid] = now
            process_lock.send_signal(self._path(uuid), signal.SIGKILL)
            log.event(logger, "killed a crunch-run that did not end", level=logging.WARNING, container_uuid=uuid)

    def _clean_up(self, uuid: str) -> None:
        """Start removing a dead crunch-run's leftovers; once that has succeeded, :meth:`_reap` forgets it."""
        now = time.monotonic()
        if now - self._cleaning.get(uuid, -CLEAN_UP_AGAIN) < CLEAN_UP_AGAIN:
            return
        lock = process_lock.acquire(self._path(uuid))
        if lock is None:
            return
        with lock:
            self._cleaning[uuid] = now
            self._children[uuid] = self._runner.clean_up(lock, uuid)
