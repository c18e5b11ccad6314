"""Removing the logs that ended containers left, by age and by size.

Owns which directories go and when to look. Knows nothing of the API: which containers are not over, its caller says.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from arv_ssh import log, uuids
from arv_ssh.config.container_logs import ContainerLogs

logger = logging.getLogger(__name__)

INTERVAL = 600.0
"""Seconds between two looks: a look at 10,000 directories takes a second."""


@dataclass(frozen=True)
class _Logs:
    """One container's: ``changed`` is when anything was last written (seconds since the epoch), ``size`` in bytes."""

    path: Path
    changed: float
    size: int


class LogSweep:
    """Sweeps the directories in ``limits.directory``. ``clock`` gives seconds since the epoch."""

    def __init__(self, limits: ContainerLogs, clock: Callable[[], float] = time.time) -> None:
        self._limits = limits
        self._clock = clock
        self._next = 0.0

    def look(self, in_use: Collection[str]) -> None:
        """Remove what is too old or too much, every :data:`INTERVAL`; never the logs of a container in ``in_use``."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + INTERVAL
        try:
            self._sweep(in_use, now)
        except OSError as error:
            log.event(logger, "cannot sweep containers' logs", level=logging.WARNING, error=str(error))

    def _sweep(self, in_use: Collection[str], now: float) -> None:
        found = [_look_at(path) for path in self._limits.directory.iterdir() if uuids.is_container(path.name)]
        room = (self._limits.max_size or float("inf")) - sum(logs.size for logs in found)
        for logs in sorted(found, key=lambda logs: logs.changed):
            too_old = self._limits.max_age and now - logs.changed > self._limits.max_age
            if logs.path.name in in_use or not (too_old or room < 0):
                continue
            shutil.rmtree(logs.path)
            room += logs.size
            log.event(logger, "removed an ended container's logs", container_uuid=logs.path.name, size=logs.size,
                      reason="age" if too_old else "size")  # fmt: skip


def _look_at(path: Path) -> _Logs:
    """Return what a container's directory holds: plain files, which its crunch-run wrote."""
    states = [entry.stat(follow_symlinks=False) for entry in os.scandir(path)] or [path.stat()]
    return _Logs(path, max(state.st_mtime for state in states), sum(state.st_size for state in states))
