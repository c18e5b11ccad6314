"""A terminal's sizes (RFC 4254 §6.7): only the newest counts, and no size waits behind another.

Owns when a size is passed on: the first at once, then one per :data:`RESIZE_INTERVAL`. A program that redraws its
screen for each would lag behind a window that a user drags, and a recording of each would fill the memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from crunch_sshd.runtimes import Terminal
from crunch_sshd.ssh.limits import RESIZE_INTERVAL


class Resizes:
    """Passes sizes on to ``resize``, which must not block: on the caller's thread, or a little later on another."""

    def __init__(self, resize: Callable[[Terminal], None]) -> None:
        self._resize = resize
        self._lock = threading.Lock()
        self._next = 0.0
        self._newest: Terminal | None = None
        self._nudged = False  # until its end the program sees one row more
        self._waiting = False  # for its turn to be passed on

    def put(self, terminal: Terminal) -> None:
        """Change the terminal's size soon."""
        with self._lock:
            self._newest, self._nudged = terminal, False
        self._change()

    def nudge(self, terminal: Terminal | None) -> None:
        """Have the program draw its screen anew, if it has one: to the kernel only a change of the size is news.

        ``terminal`` has the size with which it began; one that came later, or comes meanwhile, is the one that stays.
        """
        if terminal is None:
            return
        with self._lock:
            self._newest, self._nudged = self._newest or terminal, True
        self._change()
        if not self._later(2 * RESIZE_INTERVAL, self._settle):
            self._settle()

    def _settle(self) -> None:
        with self._lock:
            self._nudged = False
        self._change()

    def _change(self) -> None:
        with self._lock:
            if self._waiting:
                return
            self._waiting = True
            pause = self._next - time.monotonic()
        if pause <= 0 or not self._later(pause, self._pass_on):
            self._pass_on()

    @staticmethod
    def _later(pause: float, work: Callable[[], None]) -> bool:
        timer = threading.Timer(pause, work)
        timer.name, timer.daemon = "resize", True
        try:
            timer.start()
        except RuntimeError:
            return False  # no room for a thread: then at once
        return True

    def _pass_on(self) -> None:
        with self._lock:
            self._waiting = False
            self._next = time.monotonic() + RESIZE_INTERVAL
            if self._newest is not None:  # under the lock: an older size must not overtake it
                rows = self._newest.rows + self._nudged
                self._resize(replace(self._newest, rows=rows))
