"""A socket read in large pieces, from which small ones are taken without a system call.

Owns the bytes that are read but not yet taken. Knows nothing of SSH.
"""

from __future__ import annotations

import socket
from struct import Struct
from typing import Any

from crunch_sshd.ssh.memory import untouched

RECEIVE_SIZE = 512 * 1024
"""Bytes asked for in one system call."""
MOST_WAITING = 264 * 1024
"""Bytes that may wait when more are asked for: an incomplete packet of SSH, the longest of which has 256 KiB."""
STORAGE = MOST_WAITING + RECEIVE_SIZE
"""Bytes of buffer: no more, so that the processor's own cache (of 1 or 2 MiB) holds them from one read to the next."""
IDLE_TICK = 1.0
"""Seconds between the transport thread's checks of its timers while nothing arrives."""


_TIMEVAL = Struct("@ll")


class BufferedSocket:
    """A socket for one reading thread; all else is the wrapped socket's. ``early`` was read from it before.

    ``storage`` from ``start`` to ``end`` is what is read but not yet taken. The reader takes bytes by moving ``start``.
    """

    patience = 0.0
    """Seconds for which nothing may pass because a connection is lost, and comes back."""

    def __init__(self, sock: socket.socket, early: bytes = b"") -> None:
        self._sock = sock
        self.storage = untouched(max(STORAGE, len(early) + RECEIVE_SIZE))
        self.storage[: len(early)] = early
        self.start = 0
        self.end = len(early)

    def fill(self) -> int:
        """Receive once; return how many bytes came, 0 at the end. What waits, at most MOST_WAITING, may be moved.

        Raises TimeoutError when nothing came for the poll interval.
        """
        if self.start == self.end:
            self.start = self.end = 0
        elif self.start:
            self._move()
        try:
            received = self._receive_into(self.storage[self.end : self.end + RECEIVE_SIZE])
        except BlockingIOError as error:  # how SO_RCVTIMEO reports it
            raise TimeoutError(error.errno, "nothing came") from error
        self.end += received
        return received

    def _receive_into(self, room: memoryview) -> int:
        return self._sock.recv_into(room)

    def _move(self) -> None:
        """Move what waits to the beginning of the storage."""
        waiting = self.end - self.start
        self.storage[:waiting] = self.storage[self.start : self.end]
        self.start, self.end = 0, waiting

    def recv(self, size: int) -> bytes:
        """Return up to ``size`` bytes."""
        if self.start == self.end:
            self.fill()
        start = self.start
        self.start = min(start + size, self.end)
        return bytes(self.storage[start : self.start])

    def send(self, data: bytes | memoryview) -> int:
        """Send some of ``data`` with one system call; return how many bytes."""
        return self._sock.send(data)

    def settimeout(self, timeout: float | None) -> None:
        """Set the poll interval; paramiko's own 0.1 s would wake an idle connection ten times a second.

        The kernel enforces it (socket(7)): Python's own time-out costs another system call before each one.
        """
        set_interval(self._sock, 0.0 if timeout is None else max(timeout, IDLE_TICK))

    def close(self) -> None:
        """Close at once: a reader blocked in :meth:`recv` is woken, which closing alone does not do."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end was faster
        self._sock.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def set_interval(sock: socket.socket, interval: float) -> None:
    """Have blocking calls on ``sock`` end with BlockingIOError after ``interval`` seconds, 0 for never."""
    sock.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(int(interval), int(interval % 1 * 1e6)))
