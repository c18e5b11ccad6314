"""What is there, counted before a fault and after it: what was left behind shows as a difference."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, fields
from pathlib import Path

from tests.faults import processes
from tests.faults.stage import Stage
from tests.timing import POLL

PATIENCE = 90.0
"""Seconds for everything to go: an idle HTTP connection between our own parts lives for 75."""


@dataclass(frozen=True)
class Census:
    """Numbers of what a session needs; None where there is nothing to count (any more)."""

    container_processes: int | None
    gateway_children: int | None
    gateway_threads: int | None
    gateway_descriptors: int | None
    controller_threads: int | None
    controller_descriptors: int | None
    open_sessions: int | None
    run_files: int | None


NAMES = {
    "container_processes": "processes in the container", "gateway_children": "children of the gateway",
    "gateway_threads": "threads of the gateway", "gateway_descriptors": "descriptors of the gateway",
    "controller_threads": "threads of the controller", "controller_descriptors": "descriptors of the controller",
    "open_sessions": "open sessions in the controller's list", "run_files": "files in the run directory",
}  # fmt: skip


def take(stage: Stage) -> Census:
    """Count."""
    gateway, controller = stage.gateway_pid(), stage.controller_pid()
    return Census(
        container_processes=_lines(stage),
        gateway_children=len(processes.children(gateway)),
        gateway_threads=processes.threads(gateway),
        gateway_descriptors=len(processes.descriptors(gateway)),
        controller_threads=processes.threads(controller),
        controller_descriptors=len(processes.descriptors(controller)),
        open_sessions=stage.open_sessions(),
        run_files=len(list(Path(stage.root / "run").iterdir())),
    )


def _lines(stage: Stage) -> int:
    try:
        return len(stage.docker("top", stage.uuid, "-eo", "pid").splitlines()) - 1
    except subprocess.CalledProcessError:
        return 0


def left(stage: Stage, before: Census, same_controller: bool, patience: float = PATIENCE) -> list[str]:
    """Return what is more than ``before``, after waiting for it to go."""
    end = time.monotonic() + patience
    while True:
        now = take(stage)
        more = _more(before, now, same_controller)
        if not more or time.monotonic() > end:
            return more
        time.sleep(10 * POLL)


def _more(before: Census, now: Census, same_controller: bool) -> list[str]:
    found = []
    for field in fields(Census):
        was, count = getattr(before, field.name), getattr(now, field.name)
        own = field.name.startswith("controller_") and not same_controller
        if was is not None and count is not None and count > was + _SPREAD.get(field.name, 0) and not own:
            found.append(f"{count - was} more {NAMES[field.name]}")
    return found


_SPREAD = {"controller_threads": 8, "controller_descriptors": 4, "gateway_descriptors": 12, "gateway_threads": 1}
"""What a pool may keep: threads that ask the API, and their connections."""
