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

    def put(self, terminal: Terminal) -> None:
        """Change the terminal's size soon."""
        with self._lock:
            waiting, self._newest = self._newest is not None, terminal
            if waiting:
                return
            pause = self._next - time.monotonic()
        if pause <= 0 or not self._later(pause):
            self._pass_on()

    def nudge(self, terminal: Terminal | None) -> None:
        """Have the program draw its screen anew, if it has one: to the kernel only a change of the size is news."""
        if terminal is not None:
            self.put(replace(terminal, rows=terminal.rows + 1))
            threading.Timer(RESIZE_INTERVAL, self.put, (terminal,)).start()

    def _later(self, pause: float) -> bool:
        timer = threading.Timer(pause, self._pass_on)
        timer.name, timer.daemon = "resize", True
        try:
            timer.start()
        except RuntimeError:
            return False  # no room for a thread: then at once
        return True

    def _pass_on(self) -> None:
        with self._lock:
            newest, self._newest = self._newest, None
            self._next = time.monotonic() + RESIZE_INTERVAL
            if newest is not None:
                self._resize(newest)  # under the lock: an older size must not overtake it
