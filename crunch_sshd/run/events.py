"""What crunch-run's main thread waits for: the end of its container, and signals that ask it to stop.

Owns the signal handlers. A handler may run between any two instructions of the main thread, so it only stores the name
and puts to a SimpleQueue, whose ``put`` is reentrant by its documentation (an Event's ``set`` is not).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Events:
    """One main thread's events. ``notify`` may be called by any thread, the rest by the main thread."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()
        self.signalled: str | None = None

    def listen(self) -> None:
        """Install the handlers: from now on a stopping signal sets ``signalled`` and ends the waits below."""
        for number in STOPPING:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signalled = signal.Signals(number).name
        self._queue.put(None)

    def notify(self) -> None:
        """Make :meth:`wait_for` check its condition again."""
        self._queue.put(None)

    def acknowledge(self) -> None:
        """Forget the signal that came, so that later waits work again."""
        self.signalled = None

    def wait_for(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Block until ``condition`` holds (True), or a signal asks to stop or ``timeout`` seconds are over (False)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not condition():
            left = None if deadline is None else deadline - time.monotonic()
            if self.signalled or (left is not None and left <= 0):
                return False
            with suppress(Empty):
                self._queue.get(timeout=left)
        return True

    def pause(self, seconds: float) -> bool:
        """Block for ``seconds``; False as soon as a signal asks to stop."""
        deadline = time.monotonic() + seconds
        while not self.signalled:
            left = deadline - time.monotonic()
            if left <= 0:
                return True
            with suppress(Empty):
                self._queue.get(timeout=left)
        return False
