"""When a dispatcher looks: when the API tells it to, when a child has ended, and every few seconds besides.

Owns the loop, its signals and the thread that listens to the API. It ends on SIGTERM or SIGINT. Decides nothing about
containers: that is :mod:`arv_ssh.dispatch.dispatcher`'s.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Protocol

from arv_ssh import log
from arv_ssh.api.client import ApiClient
from arv_ssh.errors import ArvSshError, NotFound

logger = logging.getLogger(__name__)

LOOK = 0
"""What stands in the queue beside the numbers of signals."""
PACE = 0.2
"""Seconds between two polls, however often there is something to look at; and polls that only changes make take half of
the time at most, since any user can make changes."""
LISTEN_AGAIN = 2.0
"""Seconds until the API is asked again to tell, after it stopped; a controller's restart takes about as long."""
NOT_TOLD = 600.0
"""Seconds until it is asked again where it never tells: Arvados' own API does not, but an upgrade may come."""


class Polls(Protocol):
    """The dispatcher."""

    def poll(self) -> bool: ...


def listen(api: ApiClient, look: Callable[[], None], pause: Callable[[float], object] = time.sleep) -> None:
    """Call ``look`` whenever the API tells that containers may have changed; never returns."""
    told = None
    while True:
        seconds = LISTEN_AGAIN
        try:
            for _ in api.container_changes():
                if told is not True:
                    told = True
                    log.event(logger, "the API tells of changes")
                look()
        except NotFound:
            seconds = NOT_TOLD
        except (ArvSshError, OSError) as error:
            log.event(logger, "the API does not tell of changes", level=logging.DEBUG, error=str(error))
        if told is not False:
            told = False
            log.event(logger, "not told of changes by the API now; polling only")
        pause(seconds)


class Loop:
    """Polls until a signal, at least every ``interval`` seconds.

    ``ready_fd`` gets a line after the first poll that worked. ``children`` says that the end of a child is news.
    ``polled`` is called after each poll that worked. ``pace`` is seconds before a poll that only a change makes.
    """

    def __init__(
        self, dispatcher: Polls, interval: float, ready_fd: int | None, *, children: bool = False,
        polled: Callable[[], object] = lambda: None, pace: float = PACE,
    ) -> None:  # fmt: skip
        self._polled = polled
        self._dispatcher = dispatcher
        self._interval = interval
        self._pace = pace
        self._ready_fd = ready_fd
        self._children = children
        # Its put is reentrant, so a signal handler may use it.
        self._events: SimpleQueue[int] = SimpleQueue()
        self._outage = ""

    def run(self, api: ApiClient) -> None:
        """Poll until SIGTERM or SIGINT, also whenever ``api`` tells of changes."""
        for caught in (signal.SIGTERM, signal.SIGINT, *([signal.SIGCHLD] if self._children else [])):
            signal.signal(caught, self._on_signal)
        threading.Thread(target=listen, args=(api, self.look), name="changes", daemon=True).start()
        log.event(logger, "dispatcher is polling", interval=self._interval)
        while True:
            polled = time.monotonic()
            more = self._poll()
            now = time.monotonic()
            told = now + max(self._pace, now - polled)
            number = self._wait(polled + PACE if more else polled + self._interval, told)
            if number != LOOK:
                log.event(logger, "dispatcher is stopping", signal=signal.Signals(number).name)
                return

    def look(self) -> None:
        """Have the loop poll. Any thread."""
        self._events.put(LOOK)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._events.put(LOOK if number == signal.SIGCHLD else number)

    def _wait(self, until: float, earliest: float) -> int:
        """Return the number of a signal that asks to stop; LOOK at ``until``, or, when told to, at ``earliest``."""
        while (seconds := until - time.monotonic()) > 0:
            with suppress(Empty):
                number = self._events.get(timeout=seconds)
                if number != LOOK:
                    return number
                until = min(until, earliest)
        while True:
            try:
                number = self._events.get_nowait()
            except Empty:
                return LOOK
            if number != LOOK:
                return number

    def _poll(self) -> bool:
        """Poll; say whether there is more to do at once."""
        try:
            more = self._dispatcher.poll()
        except (ArvSshError, OSError) as error:
            # Once an outage, not once a poll.
            if str(error) != self._outage:
                self._outage = str(error)
                log.event(logger, "a poll failed; trying again", level=logging.WARNING, error=self._outage)
            return False
        self._polled()
        if self._outage:
            self._outage = ""
            log.event(logger, "polling works again")
        if self._ready_fd is not None:
            os.write(self._ready_fd, b"ready\n")
            os.close(self._ready_fd)
            self._ready_fd = None
        return more
