"""What a dead gateway left running: its sessions' programs in the container, and its helpers beside it.

Owns finding them and ending them as the gateway would have: hang up, then terminate, then kill. This process asks to
adopt orphans (prctl(2) PR_SET_CHILD_SUBREAPER), and must reap them: a zombie keeps its container's pid namespace, and
with it the container, from ending. Programs that the engine executes have another parent, so the engine is asked about
them.
"""

from __future__ import annotations

import base64
import ctypes
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from arv_ssh.errors import ArvSshError
from arv_ssh.log import event
from crunch_sshd.runtimes import host_processes
from crunch_sshd.runtimes.host_processes import ContainerIdentity, Stat

logger = logging.getLogger(__name__)

STEP = host_processes.HANG_UP_STEP
HELPER_GRACE = 2.0
"""Seconds for a helper to see that its gateway is gone and to remove its sockets from the container."""
PATIENCE = 10.0
"""Seconds after which remaining processes are given up; a process in uninterruptible sleep may never end."""
LOOK = 0.05
PR_SET_CHILD_SUBREAPER = 36


class Leftovers:
    """The orphans of one container's gateways. Any thread; this process may start nothing else from now on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gateway = 0
        self._others = {one.pid for one in _children()}
        self._threads: list[threading.Thread] = []
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def start(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Start a gateway, which does not count as a leftover until it has been waited for."""
        with self._lock:
            child = start()
            self._gateway = child.pid
        return child

    def end(self, container_id: str, namespace: int | None = None) -> None:
        """End everything that a dead and reaped gateway left; returns at once.

        The container is known by its engine's id, or, where that is "", by its pid ``namespace``.
        """
        with self._lock:
            self._gateway = 0
        self._threads = [one for one in self._threads if one.is_alive()]
        marks = ContainerIdentity(container_id or "no container", namespace)
        for work in (lambda: self._end_orphans(marks), lambda: _hang_up_execs(container_id)):
            thread = threading.Thread(target=work, name="gateway-leftovers", daemon=True)
            thread.start()
            self._threads.append(thread)

    def wait(self, timeout: float) -> None:
        """Wait until they are gone, at most ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _end_orphans(self, marks: ContainerIdentity) -> None:
        began = time.monotonic()
        sent: dict[int, int] = {}
        while ending := {one: pids for one in self._orphans() if (pids := _to_end(one, marks))}:
            waited = time.monotonic() - began
            if waited > PATIENCE:
                event(logger, "a dead gateway's processes do not end", level=logging.WARNING,
                      pids=[one.pid for one in ending])  # fmt: skip
                return
            step = host_processes.HANG_UP_STEPS[min(int(waited / STEP), 2)]
            for orphan, pids in ending.items():
                if _is_inside(orphan.pid):
                    if sent.get(orphan.pid) != step:
                        sent[orphan.pid] = step
                        host_processes.kill(pids, step)
                elif waited > HELPER_GRACE:
                    host_processes.kill(pids, signal.SIGKILL)
            time.sleep(LOOK)
        for spared in self._orphans():
            threading.Thread(target=_reap, args=(spared.pid,), name="spared", daemon=True).start()

    def _orphans(self) -> list[Stat]:
        """Return this process's living children except the gateway, and reap those that have ended."""
        with self._lock:
            found = [one for one in _children() if one.pid not in {self._gateway, *self._others}]
            for one in found:
                if one.state == "Z":
                    _reap(one.pid)
        return [one for one in found if one.state != "Z"]


def _children() -> list[Stat]:
    own = os.getpid()
    return [one for one in host_processes.processes() if one.parent == own]


def _to_end(orphan: Stat, marks: ContainerIdentity) -> list[int]:
    """Return the processes of an orphan's session that a hang-up ends, or the helper that the orphan is."""
    if not _is_inside(orphan.pid):
        return [orphan.pid]
    if host_processes.members(orphan.session, marks):
        return [one.pid for one in host_processes.to_hang_up(orphan.session, marks)]
    return [] if host_processes.ignores(orphan.pid, signal.SIGHUP) else [orphan.pid]


def _reap(pid: int) -> None:
    """Wait for a child, which another thread may have done."""
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _is_inside(pid: int) -> bool:
    return host_processes.namespace_depth(pid) > host_processes.namespace_depth(os.getpid())


def _hang_up_execs(container_id: str) -> None:
    """Hang up programs that gateways execute by the engine's API; other people's ``docker exec`` goes on."""
    if not container_id:
        return
    from crunch_sshd.runtimes import docker_engine
    from crunch_sshd.runtimes.docker import DETACH_BYTES, DockerProcess
    from crunch_sshd.runtimes.docker_engine import engine_errors

    try:
        client = docker_engine.connect()
        with engine_errors(f"container {container_id}"):
            known = client.api.inspect_container(container_id).get("ExecIDs") or []
            found = {one: client.api.exec_inspect(one) for one in known}
        ours = [one for one, facts in found.items() if facts["Running"] and _detach_keys(facts) == DETACH_BYTES]
        for one in ours:
            near, far = socket.socketpair()
            with far:
                marks = ContainerIdentity(container_id)
                process = DockerProcess(client, container_id, marks, one, "", near, b"", None)
                process.hang_up()
                process.close()
        client.close()
    except ArvSshError as error:
        event(logger, "a dead gateway's sessions are not ended", level=logging.WARNING, error=str(error))


def _detach_keys(facts: dict[str, object]) -> bytes:
    return base64.b64decode(str(facts.get("DetachKeys") or ""))
