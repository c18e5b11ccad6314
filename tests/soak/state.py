"""What processes hold, before and after: memory, descriptors, threads, children; and a container's processes."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.bench import cpu
from tests.integration.embedded_cluster import EmbeddedCluster, docker_container

MEMORY = 64 << 20
"""Bytes that a process may have grown by: allocators keep some, and the first sessions load code."""

DESCRIPTORS = 4
"""Connections that are kept for the next request, and go by themselves."""
THREADS = (os.cpu_count() or 1) + 4
"""Threads that a process may have more: the event loop's pool grows with use, to this size, and stays."""


@dataclass(frozen=True)
class State:
    """One process's holdings; ``memory`` in bytes."""

    memory: int
    descriptors: int
    threads: int
    children: int


def of_process(pid: int) -> State:
    """Return what a process holds now."""
    tasks = len(os.listdir(f"/proc/{pid}/task"))
    return State(cpu.resident(pid), len(os.listdir(f"/proc/{pid}/fd")), tasks, len(cpu.children(pid)))


def in_container(uuid: str) -> int:
    """Return the number of a container's living processes; its first one, a sleep here, never reaps the dead."""
    pid = subprocess.run(
        ["docker", "inspect", "-f", "{{.State.Pid}}", docker_container(uuid)],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    namespace = os.readlink(f"/proc/{pid}/ns/pid")
    return sum(_namespace(one) == namespace for one in Path("/proc").iterdir() if one.name.isdigit())


def _namespace(process: Path) -> str:
    try:
        if (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] == "Z":
            return ""
        return os.readlink(process / "ns" / "pid")
    except OSError:
        return ""


def look(cluster: EmbeddedCluster, uuid: str) -> dict[str, State]:
    """Return the state of the controller, of the gateway, and of the container as a process that holds others."""
    return {
        "controller": of_process(cluster.controller_pid()),
        "crunch-run": of_process(cluster.crunch_run_pid(uuid)),
        "gateway": of_process(cluster.gateway_pid(uuid)),
        "container": State(0, 0, 0, in_container(uuid)),
    }


def leftovers(before: dict[str, State], after: dict[str, State]) -> list[str]:
    """Say what is not as it was."""
    found = []
    for name, then in before.items():
        now = after[name]
        if now.memory - then.memory > MEMORY:
            found.append(f"{name}: {(now.memory - then.memory) >> 20} MB more, over {MEMORY >> 20}")
        for what in ("descriptors", "threads", "children"):
            allowed = {"descriptors": DESCRIPTORS, "threads": THREADS}.get(what, 0)
            if getattr(now, what) - getattr(then, what) > allowed:
                found.append(f"{name}: {getattr(now, what)} {what}, {getattr(then, what)} before")
    return found
