"""Requests to an engine on behalf of one command, such as resizes and signals, made in a thread of their own.

Owns the queue and its bounds. Knows nothing of what the calls do.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from arv_ssh.errors import ArvSshError
from crunch_sshd.ssh import threads

logger = logging.getLogger(__name__)

MAX_CONTROLS = 64
"""Signals that may wait for the engine; a client that sends more at once loses the rest, as a terminal merges them."""


class ControlThread:
    """Calls that must not be made on the transport thread, made one after the other in a thread of their own.

    However fast a client asks, little waits: only the newest resize, and :data:`MAX_CONTROLS` of the rest.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: deque[Callable[[], None]] = deque()
        self._newest: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, call: Callable[[], None]) -> None:
        """Queue ``call``, unless too many calls are waiting."""
        with self._lock:
            if not self._closed and len(self._calls) < MAX_CONTROLS:
                self._calls.append(call)
                self._start()

    def put_newest(self, call: Callable[[], None]) -> None:
        """Queue ``call`` in place of an earlier one of its kind that is waiting."""
        with self._lock:
            if not self._closed:
                self._newest = call
                self._start()

    def close(self) -> None:
        """Drop what waits; nothing is queued any more."""
        with self._lock:
            self._closed = True
            self._calls.clear()
            self._newest = None

    def _start(self) -> None:
        if self._thread is None:
            try:
                self._thread = threads.start(self._work, "controls")
            except OSError:
                logger.debug("no room for a thread; what waits is made with the next call")

    def _work(self) -> None:
        while (call := self._next()) is not None:
            try:
                call()
            except ArvSshError as error:  # e.g. the engine is away; the next call may find it back
                logger.debug("%s", error)

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            if self._calls:
                return self._calls.popleft()
            newest, self._newest = self._newest, None
            if newest is None:
                self._thread = None
            return newest
