"""The registry of one gateway's SSH connections: which are open, and how all or some of them are ended.

Owns the lock over them. Knows nothing of sockets, nor of the event loop: ``left`` is called when one is gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from arv_ssh.trust.session_claim import SessionClaim
from crunch_sshd.gateway.connection import DISCONNECT_GRACE, Connection

REASON_GRACE = 5.0
"""Seconds in which whoever runs the container says how it ended, once its processes are gone."""


class Connections:
    """The open connections. Any thread; ``left`` is called on the thread of the one that has gone.

    ``counted`` is called with their number at each change, in order: with the lock, so it must not come back here.
    """

    def __init__(self, left: Callable[[], Any], counted: Callable[[int], Any] = lambda count: None) -> None:
        self._left = left
        self._counted = counted
        self._changed = threading.Condition()
        self._open: set[Connection] = set()
        self._ending = False
        self._reason_given = threading.Event()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        with self._changed:
            return iter(list(self._open))

    def add(self, connection: Connection) -> bool:
        """Register a connection about to start; returns False, and it must not start, when all are being ended."""
        with self._changed:
            if not self._ending:
                self._open.add(connection)
                self._counted(len(self._open))
            return not self._ending

    def ended(self, connection: Connection) -> None:
        """Note that a connection has ended, on its own thread."""
        self._left()  # first: the event loop ends once there are no connections
        with self._changed:
            self._open.discard(connection)
            self._counted(len(self._open))
            self._changed.notify_all()

    def end_session(self, session: SessionClaim, reason: str) -> int:
        """End the connections of a session; return how many there were."""
        found = [
            one for one in list(self)
            if (one.login.user_uuid, one.login.request_id) == (session.user_uuid, session.request_id)
        ]  # fmt: skip
        for connection in found:
            connection.end(reason)
        return len(found)

    def end_all(self, reason: str) -> None:
        """Have every connection end, its client shown ``reason``."""
        for connection in list(self):
            connection.end(reason)
        self._reason_given.set()

    def wait_for_reason(self) -> bool:
        """Wait until :meth:`end_all` has been called, at most REASON_GRACE; say whether it has been."""
        return self._reason_given.wait(REASON_GRACE)

    def close(self, reason: str) -> None:
        """Take no more connections and end the open ones; return when they are gone or their time is up."""
        with self._changed:
            self._ending = True
        self.end_all(reason)
        self._wait_until_empty()
        for connection in list(self):
            connection.close()
        self._wait_until_empty()  # their threads still use the loop

    def _wait_until_empty(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._open, DISCONNECT_GRACE)
