"""Keeping a failed container up for its owner: what keeps it up, how long, and what its record says meanwhile.

Owns the times and the words. :mod:`crunch_sshd.run.exit_stop` owns how a container can be kept up at all. The record
stays Running with the program's exit code, as Arvados' own crunch-run has it between a program's end and Complete.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from arv_ssh import log
from arv_ssh.errors import HttpError
from crunch_sshd.run.container_record import ContainerRecord
from crunch_sshd.run.events import Events
from crunch_sshd.run.exit_stop import ExitStop, FirstProcess

logger = logging.getLogger(__name__)


class Hold:
    """The hold of one container, for the main thread but for :meth:`sessions`.

    ``asked`` is the time to keep it up once its program has failed, in seconds, 0 for not at all; open sessions prolong
    that up to ``longest``, the site's limit for both.
    """

    def __init__(
        self, asked: float, longest: float, container_id: Callable[[], str], record: ContainerRecord, events: Events
    ) -> None:
        self._asked, self._longest = min(asked, longest), longest
        self._record = record
        self._events = events
        self._exit = ExitStop(FirstProcess(container_id).look, events.notify)
        self._open_sessions = 0
        self._status_before: dict[str, Any] | None = None

    def prepare(self) -> None:
        """Watch for the container's first process, which is about to be started."""
        if self._asked:
            self._exit.start()

    def started(self) -> None:
        """Note that the container has been started."""
        self._exit.started()

    def sessions(self, count: int) -> None:
        """Note how many sessions are open now. Any thread."""
        self._open_sessions = count
        self._events.notify()

    def is_due(self) -> bool:
        """Say whether the program has failed, and the container stands there to be kept up."""
        return self._exit.status is not None

    def keep(self, uuid: str, ended: Callable[[], bool]) -> None:
        """Keep the container up until its time is over, its sessions have left, ``ended`` holds, or a signal comes.

        A signal ends nothing but the hold: the program had ended by itself before.
        """
        began = time.monotonic()
        exit_code = self._exit.status
        log.event(logger, "the program failed; keeping its container up", container_uuid=uuid, exit_code=exit_code,
                  seconds=self._asked, longest=self._longest)  # fmt: skip
        self._announce(uuid, exit_code)
        reason = self._wait(began, ended)
        self.release()
        log.event(logger, "the container is kept up no longer", container_uuid=uuid, reason=reason,
                  seconds=round(time.monotonic() - began, 1))  # fmt: skip

    def release(self) -> None:
        """Let the container end, now or whenever it wants to."""
        self._exit.release()

    def ending(self, exit_code: int) -> dict[str, Any]:
        """Return what to record at the end: what stood there before the hold, or why there was none."""
        if self._status_before is not None:
            return {"runtime_status": self._status_before}
        if not (self._asked and exit_code and self._exit.failure):
            return {}
        warning = f"the program failed, and its container could not be kept up (hold_on_failure): {self._exit.failure}"
        log.event(logger, "the container could not be kept up", level=logging.WARNING, reason=self._exit.failure)
        return self._with_status({"warning": warning})

    def _wait(self, began: float, ended: Callable[[], bool]) -> str:
        """Wait for the hold's end; return its reason."""
        while True:
            count = self._open_sessions
            left = began + (self._longest if count else self._asked) - time.monotonic()
            if ended():
                return "it was ended from outside"
            if self._events.signalled:
                reason = self._events.signalled
                self._events.acknowledge()
                return reason
            if left <= 0:
                return "its time is over, with sessions in it" if count else "its time is over"
            self._events.wait_for(partial(self._changed, count, ended), left)

    def _changed(self, count: int, ended: Callable[[], bool]) -> bool:
        return ended() or self._open_sessions != count

    def _announce(self, uuid: str, exit_code: int | None) -> None:
        """Record the program's end; the container is kept up even if that fails, as the API may be away."""
        until = (datetime.now(UTC) + timedelta(seconds=self._asked)).strftime("%Y-%m-%dT%H:%M:%SZ")
        activity = (
            f"kept up until {until} for its owner to look into, and longer while somebody is in it: ssh {uuid}; "
            "set its request's priority to 0 to end it now"
        )
        shown = self._with_status({"error": f"the program failed (exit {exit_code})", "activity": activity})
        try:
            self._record.update({"exit_code": exit_code, **shown})
        except HttpError as error:
            log.event(logger, "the failure is not recorded", level=logging.WARNING, container_uuid=uuid,
                      error=str(error))  # fmt: skip

    def _with_status(self, keys: dict[str, str]) -> dict[str, Any]:
        """Return runtime_status with ``keys`` added; the program itself may have written to it, and goes first."""
        try:
            before = self._record.get().get("runtime_status") or {}
        except HttpError:
            return {}
        self._status_before = before
        own_error = {"error": before["error"]} if before.get("error") else {}
        return {"runtime_status": {**before, **keys, **own_error}}
