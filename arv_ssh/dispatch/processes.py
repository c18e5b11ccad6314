"""The crunch-runs on this machine: child processes, each with a lock file that outlives the dispatcher.

Owns the lock files (:mod:`arv_ssh.processes.process_lock`) and the children; the one fact that survives any restart is
whether a lock is held. How a process is started is :class:`Starter`'s. Decides nothing.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from arv_ssh import log, uuids
from arv_ssh.dispatch.runs import Life
from arv_ssh.errors import ArvSshError
from arv_ssh.processes import process_lock
from arv_ssh.processes.process_lock import ProcessLock

logger = logging.getLogger(__name__)

CLEAN_UP_AGAIN = 15.0
"""Seconds until a clean-up that failed (no Docker engine) is tried again."""


class Starter(Protocol):
    """Starts a crunch-run that inherits ``lock``."""

    def start(self, lock: ProcessLock, uuid: str, token: str) -> subprocess.Popen[bytes]: ...

    def clean_up(self, lock: ProcessLock, uuid: str) -> subprocess.Popen[bytes]: ...


class Processes:
    """The crunch-runs of this machine, with their lock files in ``state_dir``."""

    fields: tuple[str, ...] = ()

    def __init__(self, starter: Starter, state_dir: Path) -> None:
        self._starter = starter
        self._state_dir = state_dir
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._cleaning: dict[str, float] = {}

    def look(self) -> None:
        """Collect the children that have ended; one that succeeded leaves nothing to watch or clean up."""
        for uuid, child in list(self._children.items()):
            status = child.poll()
            if status is None:
                continue
            del self._children[uuid]
            log.event(logger, "crunch-run has ended", container_uuid=uuid, status=status)
            if status == 0:
                self._forget(uuid)

    def known(self) -> set[str]:
        """Return the containers that have a lock file."""
        return {path.stem for path in self._state_dir.glob("*.lock") if uuids.is_container(path.stem)}

    def life(self, uuid: str) -> Life:
        """Say whether a container's lock is held, and whether by a clean-up that we started."""
        if not process_lock.is_held(self.path(uuid)):
            return Life.GONE
        return Life.UNKNOWN if uuid in self._cleaning else Life.ALIVE

    def start(self, record: dict[str, Any], take: Callable[[], str]) -> bool:
        """Start a container's crunch-run."""
        uuid = str(record["uuid"])
        lock = process_lock.acquire(self.path(uuid))
        if lock is None:
            return False
        with lock:
            try:
                token = take()
            except ArvSshError:
                lock.discard()
                raise
            self._children[uuid] = self._starter.start(lock, uuid, token)
        log.event(logger, "started crunch-run", container_uuid=uuid, pid=self._children[uuid].pid)
        return True

    def end(self, uuid: str, *, kill: bool) -> bool:
        """Send a signal to the process that holds the lock."""
        return process_lock.send_signal(self.path(uuid), signal.SIGKILL if kill else signal.SIGTERM)

    def clean_up(self, uuid: str) -> None:
        """Start removing a dead crunch-run's leftovers; once that has succeeded, :meth:`look` forgets it."""
        now = time.monotonic()
        if now - self._cleaning.get(uuid, -CLEAN_UP_AGAIN) < CLEAN_UP_AGAIN:
            return
        lock = process_lock.acquire(self.path(uuid))
        if lock is None:
            return
        with lock:
            self._cleaning[uuid] = now
            self._children[uuid] = self._starter.clean_up(lock, uuid)

    def why_gone(self, uuid: str) -> str:
        """Return all that a released lock says."""
        return "crunch-run ended unexpectedly"

    def log_place(self, uuid: str) -> str:
        """Name the directory of a crunch-run's log."""
        return f"the dispatcher's log directory for {uuid}"

    def hopeless(self, uuid: str) -> str:
        """Return "": a process does not wait."""
        return ""

    def arrange(self, containers: Sequence[str]) -> None:
        """Do nothing: processes do not wait."""

    def path(self, uuid: str) -> Path:
        """Return a container's lock file."""
        return self._state_dir / f"{uuid}.lock"

    def _forget(self, uuid: str) -> None:
        self._cleaning.pop(uuid, None)
        lock = process_lock.acquire(self.path(uuid))
        if lock:
            lock.discard()
