"""What to do about each container: start, requeue, cancel, clean up.

Owns the decisions, made afresh at every poll from two facts that survive any restart: the container's record, and
whether its crunch-run lives (:mod:`arv_ssh.dispatch.runs`). One dispatcher serves a cluster: every container locked
with our token is ours. Knows nothing of where crunch-runs run; runs in one thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from arv_ssh import log
from arv_ssh.api.client import ApiClient
from arv_ssh.dispatch.runs import CannotRun, Life, Runs
from arv_ssh.errors import ArvSshError, BadGateway, GatewayTimeout, NotFound, Unavailable

logger = logging.getLogger(__name__)

KILL_AFTER = 60.0
"""Seconds between SIGTERM and SIGKILL for a crunch-run whose container is cancelled: its own steps take about ten."""

STARTING = 5.0
"""Seconds of a poll that go to starting containers, so that with thousands of them in the queue the others' ends and
cancellations do not wait."""

_FIELDS = ["uuid", "state", "priority", "locked_by_uuid", "lock_count", "created_at"]

Record = dict[str, Any]


class Dispatcher:
    """The containers of one cluster. ``in_use`` are those that the last poll did not find settled."""

    def __init__(self, api: ApiClient, runs: Runs, max_attempts: int) -> None:
        self._api = api
        self._runs = runs
        self._max_attempts = max_attempts
        self._me: str | None = None
        self._told_to_end: dict[str, float] = {}
        self.in_use: frozenset[str] = frozenset()

    def poll(self) -> bool:
        """Look at every container once and act; say whether some still wait for their turn.

        Raises when the API, or the place where containers run, cannot be reached, which loses nothing.
        """
        self._runs.look()
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
        for uuid in sorted(self._runs.known() - known):
            self._attempt(uuid, partial(self._settle, uuid))
        for uuid in self._told_to_end.keys() - self._runs.known():
            del self._told_to_end[uuid]
        # Last, since a place that is about to fail takes its time over each.
        left = self._start_some(sorted(waiting + self._unsubmitted(mine), key=_urgency))
        self._runs.arrange([record["uuid"] for record in sorted(mine + waiting, key=_urgency) if record["priority"]])
        self.in_use = frozenset(self._runs.known().union(record["uuid"] for record in live))
        return left

    def _start_some(self, waiting: list[Record]) -> bool:
        """Start what there is time for; say whether some are left."""
        end = time.monotonic() + STARTING
        for record in waiting:
            if time.monotonic() > end:
                return True
            self._attempt(record["uuid"], partial(self._start, record))
        return False

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

    def _unsubmitted(self, mine: list[Record]) -> list[Record]:
        """Return the locked containers whose crunch-run is still to be started."""
        locked = [record for record in mine if record["state"] == "Locked" and record["priority"]]
        return [record for record in locked if self._runs.life(record["uuid"]) is Life.UNSUBMITTED]

    def _start(self, record: Record) -> None:
        """Lock a container, unless we have done so, and start its crunch-run."""
        take = partial(self._take if record["state"] == "Queued" else self._token, record["uuid"])
        if self._runs.fields:
            record = record | self._api.get("containers", record["uuid"], select=["uuid", *self._runs.fields])
        try:
            self._runs.start(record, take)
        except CannotRun as error:
            self._cancel(record["uuid"], str(error))

    def _take(self, uuid: str) -> str:
        """Lock a container; return its token."""
        self._api.lock(uuid)
        return self._token(uuid)

    def _token(self, uuid: str) -> str:
        auth = self._api.container_auth(uuid)
        return f"v2/{auth['uuid']}/{auth['api_token']}"

    def _watch(self, record: Record) -> None:
        """Look after a Locked or Running container of ours."""
        life = self._runs.life(record["uuid"])
        if life is Life.ALIVE:
            self._watch_living(record)
        elif life is Life.GONE or (life is Life.UNSUBMITTED and not record["priority"]):
            self._watch_gone(record)

    def _watch_living(self, record: Record) -> None:
        uuid = record["uuid"]
        if not record["priority"]:
            self._end(uuid)
        elif reason := self._runs.hopeless(uuid):
            self._cancel(uuid, reason)
            self._end(uuid)

    def _watch_gone(self, record: Record) -> None:
        """Settle a container whose crunch-run is gone: it had run, it was started too often, or it may try again."""
        uuid, state = record["uuid"], record["state"]
        if state == "Running":
            why = f"{self._runs.why_gone(uuid)} while the container was running" if record["priority"] else ""
            self._cancel(uuid, why and self._with_log(uuid, why))
            self._runs.clean_up(uuid)
        elif record["priority"] and (record["lock_count"] or 0) >= self._max_attempts:
            times = f"{record['lock_count']} times before the container was running"
            why = self._runs.why_gone(uuid).removesuffix(" unexpectedly")
            self._cancel(uuid, self._with_log(uuid, f"{why} {times}" if why == "crunch-run ended" else
                                              f"crunch-run ended {times}, the last time because {why}"))  # fmt: skip
            self._runs.clean_up(uuid)
        else:
            self._api.unlock(uuid)
            log.event(logger, "put back into the queue: crunch-run ended before it ran", container_uuid=uuid)

    def _with_log(self, uuid: str, reason: str) -> str:
        return f"{reason}; its log is crunch-run.txt in {self._runs.log_place(uuid)}"

    def _cancel(self, uuid: str, reason: str) -> None:
        """Record Cancelled; without a reason where the users themselves asked for it."""
        status = {"runtime_status": {"error": reason}} if reason else {}
        self._api.update("containers", uuid, {"state": "Cancelled", **status})
        log.event(logger, "cancelled a container", level=logging.WARNING, container_uuid=uuid, reason=reason)

    def _settle(self, uuid: str) -> None:
        """Settle a container that is no longer live: end a cancelled crunch-run, clean up after a dead one."""
        life = self._runs.life(uuid)
        if life is Life.ALIVE and self._is_cancelled(uuid):
            self._end(uuid)
        elif life in (Life.GONE, Life.UNSUBMITTED):
            self._runs.clean_up(uuid)

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
            sent = self._runs.end(uuid, kill=False)
            log.event(logger, "asked crunch-run to end", container_uuid=uuid, sent=sent)
        elif now - since > KILL_AFTER:
            self._told_to_end[uuid] = now
            self._runs.end(uuid, kill=True)
            log.event(logger, "killed a crunch-run that did not end", level=logging.WARNING, container_uuid=uuid)


def _urgency(record: Record) -> tuple[int, str, str]:
    return -record["priority"], record["created_at"], record["uuid"]
