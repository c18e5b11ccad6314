"""How many sessions may be open at once: of a user, in a container, on a controller with all its processes.

Owns the counting over the processes of one host. Each process writes the slots it holds into its own file in the run
directory; the file counts as long as its writer holds a lock, which the kernel releases when the process ends, even by
kill -9. A slot is taken under the directory's lock, so that a burst of logins cannot exceed the limit.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from arv_ssh.config.cluster_config import Limits
from arv_ssh.controller.shell.sessions import Attempt, LiveConnection, Observer
from arv_ssh.errors import HttpError, TooManySessions
from arv_ssh.processes import process_lock

Slot = tuple[str, str]
"""The user and the container of one session."""
Taken = tuple[str, str, str]
"""A session's id before its slot: who asks to go on with a session of somebody else must not touch that one's slot."""
STEM = "places-"
"""The prefix of the files' names. An earlier version, which may be draining beside this one, looks for the same."""


class SessionLimits(Observer):
    """The slots of this process's sessions in ``run_dir``, and whether ``limits`` leaves another.

    A slot is given back when the session is refused or closed. A session that is here and asks to go on has its slot
    twice until it is known whether it may, and counts once: whatever comes of that, one of both remains.
    """

    def __init__(self, limits: Limits, run_dir: Path) -> None:
        self._limits = limits
        self._run_dir = run_dir
        self._stem = f"{STEM}{secrets.token_hex(8)}"
        self._taken: Counter[Taken] = Counter()
        self._alive: int | None = None
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="limits")

    def reload(self, limits: Limits) -> None:
        """Count by ``limits`` from now on; sessions over them go on."""
        self._limits = limits
        if limits != Limits():
            with self._lock, self._locked_directory():
                self._write()

    async def take(self, session: LiveConnection) -> None:
        """Take a slot for ``session``; raise :class:`TooManySessions`, naming the limit, when no slot is free.

        One that goes on has been counted, here or in another process, and gets its slot in any case.
        """
        taken = session.id, session.user_uuid, session.container_uuid
        limits = Limits() if session.resumed else self._limits
        taking = asyncio.get_running_loop().run_in_executor(self._pool, self._take, taken, limits)
        try:
            await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(partial(self._taken_in_vain, taken))
            raise

    def _taken_in_vain(self, taken: Taken, taking: asyncio.Future[None]) -> None:
        if not taking.cancelled() and taking.exception() is None:
            self._give_back(taken)

    def refused(self, attempt: Attempt, error: HttpError) -> None:
        self._give_back((attempt.session_id, attempt.user_uuid, attempt.container_uuid))

    def resumed(self, session: LiveConnection, known: bool) -> None:
        if known:
            self.closed(session, "")

    def closed(self, session: LiveConnection, reason: str) -> None:
        self._give_back((session.id, session.user_uuid, session.container_uuid))

    def close(self) -> None:
        """Leave the run directory."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            if self._alive is not None:
                self._path("json").unlink(missing_ok=True)
                self._path("alive").unlink(missing_ok=True)
                os.close(self._alive)
                self._alive = None

    def _slots(self) -> list[Slot]:
        return [(user, container) for _, user, container in self._taken]

    def _take(self, taken: Taken, limits: Limits) -> None:
        with self._lock:
            if self._limits == Limits():
                self._taken[taken] += 1
                return
            with self._locked_directory():
                _check(limits, taken[1:], [*self._slots(), *self._others()])
                self._taken[taken] += 1
                self._write()

    def _give_back(self, taken: Taken) -> None:
        """Give a slot back, if there is one. Not under the directory's lock: a concurrent count may be one too high."""
        with self._lock:
            if taken not in self._taken:
                return
            self._taken[taken] -= 1
            if not self._taken[taken]:
                del self._taken[taken]
                if self._alive is not None:
                    self._write()

    @contextmanager
    def _locked_directory(self) -> Iterator[None]:
        directory = os.open(self._run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield
        finally:
            os.close(directory)

    def _write(self) -> None:
        """Write this process's slots, whole or not at all. The first time under the directory's lock."""
        if self._alive is None:
            self._alive = os.open(self._path("alive"), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part = self._path("part")
        part.write_text(json.dumps(self._slots()))
        part.replace(self._path("json"))

    def _others(self) -> Iterator[Slot]:
        """Return the slots of the other living processes; remove the files of dead ones. Under the directory's lock."""
        for alive in self._run_dir.glob(f"{STEM}*.alive"):
            if alive == self._path("alive"):
                continue
            slots = alive.with_suffix(".json")
            if process_lock.is_held(alive):
                yield from ((user, container) for user, container in json.loads(slots.read_text()))
            else:
                for leftover in (slots, alive.with_suffix(".part"), alive):
                    leftover.unlink(missing_ok=True)

    def _path(self, kind: str) -> Path:
        return self._run_dir / f"{self._stem}.{kind}"


def _check(limits: Limits, slot: Slot, taken: list[Slot]) -> None:
    """Raise unless there is room for one more beside those ``taken``."""
    user, container = slot
    if limits.per_user and sum(one[0] == user for one in taken) >= limits.per_user:
        raise TooManySessions(
            f"you have {limits.per_user} connections open here, the limit for one user (ConnectionsPerUser: "
            f"{limits.per_user}); end one of them first"
        )
    if limits.per_container and sum(one[1] == container for one in taken) >= limits.per_container:
        raise TooManySessions(
            f"container {container} has {limits.per_container} connections open, the limit for one container "
            f"(ConnectionsPerContainer: {limits.per_container}); wait until one of them ends"
        )
    if limits.per_controller and len(taken) >= limits.per_controller:
        raise TooManySessions(
            f"this controller has {limits.per_controller} connections open, its limit (ConnectionsPerController: "
            f"{limits.per_controller}); try again later"
        )
