"""The way from a channel's data to a process's stdin, or to a forwarded connection.

Owns the order of the bytes and those that wait for a slow reader (at most the channel's window). The transport thread
writes directly while the process keeps up; only when the process lags does a separate thread for this channel take
over, so that one stuck program never holds up its neighbours.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from crunch_sshd.ssh import threads
from crunch_sshd.ssh.channel import GatewayChannel
from crunch_sshd.ssh.limits import SMALL_PIECE

logger = logging.getLogger(__name__)

WRITABLE_TICK = 1.0
"""Seconds between checks for the session's end while a process reads nothing."""


class Sink(Protocol):
    """What takes a channel's data: the part of :class:`crunch_sshd.runtimes.Process` that is its stdin."""

    def write(self, data: bytes | memoryview) -> int:
        """Take some of ``data`` without blocking; raise BrokenPipeError when the reader is gone."""

    def wait_writable(self, timeout: float) -> bool:
        """Block up to ``timeout`` seconds until :meth:`write` may take something."""

    def close_stdin(self) -> None:
        """Pass end-of-file on."""


class Waiting:
    """Waiting bytes, in order. Small pieces are copied together, so that they take no more than their own size."""

    def __init__(self) -> None:
        self.pieces: deque[bytearray | memoryview] = deque()

    def append(self, data: bytes | memoryview) -> None:
        """Keep a copy of ``data``."""
        if len(data) >= SMALL_PIECE:
            self.pieces.append(memoryview(bytes(data)))
        elif self.pieces and isinstance(self.pieces[-1], bytearray):
            self.pieces[-1] += data
        else:
            self.pieces.append(bytearray(data))

    def deliver(self, write: Callable[[memoryview], int]) -> int:
        """Let ``write`` take bytes from the oldest piece, which it must not keep; return how many it took."""
        piece = self.pieces[0]
        with memoryview(piece) as view:
            taken = write(view)
        if taken == len(piece):
            self.pieces.popleft()
        elif isinstance(piece, bytearray):
            del piece[:taken]
        else:
            self.pieces[0] = piece[taken:]
        return taken

    def clear(self) -> int:
        """Discard everything; return how many bytes that was."""
        size = sum(map(len, self.pieces))
        self.pieces.clear()
        return size


class ChannelInput:
    """The input of one channel, which may arrive before it has anywhere to go."""

    def __init__(self, channel: GatewayChannel) -> None:
        self._channel = channel
        self._lock = threading.RLock()
        self._process: Sink | None = None
        self._waiting = Waiting()
        self._eof = False
        self._over = False
        self._thread: threading.Thread | None = None

    def attach(self, process: Sink) -> None:
        """Begin to deliver to ``process``."""
        with self._lock:
            self._process = process
            self._continue()

    def data_received(self, data: bytes | memoryview) -> None:
        """Deliver or keep ``data``. Transport thread; never blocks."""
        size = taken = len(data)
        with self._lock:
            if not self._over:
                if self._process is None or self._waiting.pieces:
                    self._waiting.append(data)
                    return
                try:
                    taken = self._process.write(data)
                except BrokenPipeError:
                    self._over = True  # as in _write
                if taken < size:
                    self._waiting.append(memoryview(data)[taken:])
                    self._continue()
        if taken:
            self._channel.consumed(taken)

    def eof_received(self) -> None:
        """Close the process's stdin once everything is delivered. Transport thread."""
        with self._lock:
            self._eof = True
            self._continue()

    def close(self) -> None:
        """Discard waiting input; the process has ended or its client is gone."""
        with self._lock:
            self._over = True
            self._waiting.clear()

    def _continue(self) -> None:
        """Go on delivering: at once if nothing waits, else in this channel's thread. The caller holds the lock."""
        if self._process is None or self._over:
            return
        if not self._waiting.pieces:
            if self._eof:
                self._over = True
                self._process.close_stdin()
        elif self._thread is None:
            self._start(self._process)

    def _start(self, process: Sink) -> None:
        try:
            self._thread = threads.start(partial(self._deliver, process), "stdin")
        except OSError:
            # The program must not mistake partial input for all of it: its input ends with the channel, not before.
            logger.warning("a program that reads late gets no more input: this host has no room for a thread")
            self._over = True
            self._channel.close()

    def _write(self, process: Sink, data: bytes | memoryview) -> int:
        try:
            return process.write(data)
        except BrokenPipeError:
            # The reader is gone; the client may keep sending (sshd discards it too), so that it gets the exit status.
            self._over = True
            return len(data)

    def _deliver(self, process: Sink) -> None:
        while True:
            writable = process.wait_writable(WRITABLE_TICK)
            with self._lock:
                taken = 0
                if writable and self._waiting.pieces and not self._over:
                    taken = self._waiting.deliver(partial(self._write, process))
                done = self._over or not self._waiting.pieces
                if done:
                    self._thread = None
                    if self._over:
                        taken += self._waiting.clear()
                    self._continue()
            if taken:
                with suppress(OSError):  # the connection is lost, and nothing will be sent on it any more
                    self._channel.consumed(taken)
            if done:
                return
