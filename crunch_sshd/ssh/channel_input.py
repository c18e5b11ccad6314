"""The way from a channel's data to a process's stdin, or to a forwarded connection.

Owns the order of the bytes and what waits for a slow reader (at most the channel's window). The transport thread
writes by itself while the process takes what it is given; only when the process lags does a thread of this channel's
own take over, so that one stuck program never holds up its neighbours.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import Protocol

from crunch_sshd.ssh.transport import GatewayChannel

WRITABLE_TICK = 1.0
"""Seconds between looks whether the session is over while a process reads nothing."""


class Sink(Protocol):
    """What takes a channel's data: the part of :class:`crunch_sshd.runtimes.Process` that is its stdin."""

    def write(self, data: bytes | memoryview) -> int:
        """Take some of ``data`` without blocking; raise BrokenPipeError when nobody will read it any more."""

    def wait_writable(self, timeout: float) -> bool:
        """Block up to ``timeout`` seconds until :meth:`write` may take something."""

    def close_stdin(self) -> None:
        """Pass end-of-file on."""


class ChannelInput:
    """The input of one channel, which may have somewhere to go only later than it arrives."""

    def __init__(self, channel: GatewayChannel) -> None:
        self._channel = channel
        self._changed = threading.Condition()
        self._process: Sink | None = None
        self._waiting: deque[memoryview] = deque()
        self._eof = False
        self._over = False
        self._thread: threading.Thread | None = None

    def attach(self, process: Sink) -> None:
        """Begin to deliver to ``process``."""
        with self._changed:
            self._process = process
            self._continue()

    def data_received(self, data: bytes | memoryview) -> None:
        """Deliver or keep ``data``. Transport thread; never blocks."""
        with self._changed:
            if self._over:
                taken = len(data)
            elif self._waiting or self._process is None:
                self._waiting.append(memoryview(data))
                self._changed.notify_all()
                return
            else:
                taken = self._write(self._process, data)
                if taken < len(data):
                    self._waiting.append(memoryview(data)[taken:])
                    self._continue()
        if taken:
            self._channel.consumed(taken)

    def eof_received(self) -> None:
        """Close the process's stdin once it has everything. Transport thread."""
        with self._changed:
            self._eof = True
            self._continue()

    def close(self) -> None:
        """Forget what waits; the process has ended or its client is gone."""
        with self._changed:
            self._over = True
            self._waiting.clear()
            self._changed.notify_all()

    def _continue(self) -> None:
        """Go on delivering: at once if there is nothing to wait for, else in this channel's thread. Holds the lock."""
        if self._process is None or self._over:
            return
        if not self._waiting:
            if self._eof:
                self._over = True
                self._process.close_stdin()
        elif self._thread is None:
            self._thread = threading.Thread(target=self._deliver, args=(self._process,), name="stdin", daemon=True)
            self._thread.start()

    def _write(self, process: Sink, data: bytes | memoryview) -> int:
        try:
            return process.write(data)
        except BrokenPipeError:
            # Nobody reads any more; the client may send on (sshd discards it too), so that it gets the exit status.
            self._over = True
            return len(data)

    def _deliver(self, process: Sink) -> None:
        while True:
            writable = process.wait_writable(WRITABLE_TICK)
            with self._changed:
                taken = 0
                if writable and self._waiting and not self._over:
                    piece = self._waiting[0]
                    taken = self._write(process, piece)
                    if taken == len(piece):
                        self._waiting.popleft()
                    else:
                        self._waiting[0] = piece[taken:]
                done = self._over or not self._waiting
                if done:
                    self._thread = None
                    if self._over:
                        taken += sum(len(piece) for piece in self._waiting)
                        self._waiting.clear()
                    self._continue()
            if taken:
                with suppress(OSError):  # the connection is lost, and nothing will be sent on it any more
                    self._channel.consumed(taken)
            if done:
                return
