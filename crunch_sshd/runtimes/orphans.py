"""The orphans that a subreaper gets and nothing waits for: the processes that crun forked before it failed.

Owns telling them from the programs that are waited for. A process left as a zombie keeps its container's pid
namespace, and with it the container, from ending.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from crunch_sshd.runtimes import host_processes

PATIENCE = 5.0
"""Seconds for the processes that a failed runtime left behind to end."""
LOOK = 0.05


class Orphans:
    """The children of this process in pid namespaces below its own. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starting = 0
        self._programs: set[int] = set()

    @contextmanager
    def start(self) -> Iterator[None]:
        """Reap no orphan during the block, which may be about to learn that one is its program."""
        with self._lock:
            self._starting += 1
        try:
            yield
        finally:
            with self._lock:
                self._starting -= 1

    def is_program(self, pid: int) -> None:
        """Leave ``pid`` to the thread that waits for it."""
        with self._lock:
            self._programs.add(pid)

    def expect_one(self) -> None:
        """Reap one that is about to end, in a thread of its own, if it comes at all."""
        threading.Thread(target=self._wait, name="orphans", daemon=True).start()

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self._reap() and time.monotonic() < deadline:
            time.sleep(LOOK)

    def _reap(self) -> bool:
        with self._lock:
            if self._starting:
                return False
            own = os.getpid()
            depth = host_processes.namespace_depth(own)
            children = [one for one in host_processes.processes() if one.parent == own]
            self._programs &= {one.pid for one in children}
            ended = [one.pid for one in children if one.state == "Z" and one.pid not in self._programs]
            found = [pid for pid in ended if host_processes.namespace_depth(pid) > depth]
            for pid in found:
                os.waitpid(pid, os.WNOHANG)
            return bool(found)
