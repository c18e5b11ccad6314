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
STORAGE = 4 * RECEIVE_SIZE
"""Bytes of buffer. Waiting bytes move to its beginning when a whole piece no longer fits after them."""
IDLE_TICK = 1.0
"""Seconds between the transport thread's checks of its timers while nothing arrives."""


_TIMEVAL = Struct("@ll")


class BufferedSocket:
    """A socket for one reading thread; all else is the wrapped socket's. ``early`` was read from it before."""

    patience = 0.0
    """Seconds for which nothing may pass because a connection is lost, and comes back."""

    def __init__(self, sock: socket.socket, early: bytes = b"") -> None:
        self._sock = sock
        self._storage = untouched(STORAGE)
        self._storage[: len(early)] = early
        self._start = 0
        self._end = len(early)

    @property
    def buffered(self) -> int:
        """Return how many bytes can be taken at once."""
        return self._end - self._start

    def fill(self, wanted: int) -> int:
        """Receive once, with room for ``wanted`` bytes in all; return how many came, 0 at the end.

        Raises TimeoutError when nothing came for the poll interval.
        """
        if self._start == self._end:
            self._start = self._end = 0
        elif STORAGE - self._end < max(wanted, RECEIVE_SIZE):
            waiting = self._end - self._start
            self._storage[:waiting] = self._storage[self._start : self._end]
            self._start, self._end = 0, waiting
        try:
            received = self._receive_into(self._storage[self._end : self._end + RECEIVE_SIZE])
        except BlockingIOError as error:  # how SO_RCVTIMEO reports it
            raise TimeoutError(error.errno, "nothing came") from error
        self._end += received
        return received

    def _receive_into(self, room: memoryview) -> int:
        return self._sock.recv_into(room)

    def peek(self, size: int) -> memoryview:
        """Return the next ``size`` bytes, at most :attr:`buffered`, without taking them."""
        return self._storage[self._start : self._start + size]

    def take(self, size: int) -> memoryview:
        """Return the next ``size`` bytes, at most :attr:`buffered`, in place: valid until the next :meth:`fill`."""
        start = self._start
        self._start = start + size
        return self._storage[start : self._start]

    def recv(self, size: int) -> bytes:
        """Return up to ``size`` bytes."""
        if not self.buffered:
            self.fill(size)
        return bytes(self.take(min(size, self.buffered)))

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
