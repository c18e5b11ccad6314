"""A container's output: read from the engine's attach stream, written to two files.

Owns the stream's frames (Docker API ``containers/attach``: one byte stream number, three zero bytes, four bytes
length), the connection and the thread that reads it. Knows nothing of containers.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from arv_ssh import log

logger = logging.getLogger(__name__)

STDOUT, STDERR = 1, 2
NAMES = {STDOUT: "stdout", STDERR: "stderr"}
CLOSE_TIMEOUT = 5.0
"""Seconds for the copying to stop once its connection is closed; a write to a dead file system may never return."""
READ_SIZE = 256 * 1024

_HEADER = struct.Struct(">BxxxL")


class Frames:
    """Takes the stream's bytes in any pieces, gives (stream number, bytes) as soon as they arrive."""

    def __init__(self) -> None:
        self._header = b""
        self._stream = 0
        self._left = 0

    @property
    def cut(self) -> bool:
        """Say whether the stream, if it ended here, would end within a frame."""
        return bool(self._header or self._left)

    def receive(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the parts of ``data`` that belong to each stream; the iterator must be used up before the next call."""
        while data:
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                yield self._stream, piece
                continue
            wanted = _HEADER.size - len(self._header)
            self._header, data = self._header + data[:wanted], data[wanted:]
            if len(self._header) == _HEADER.size:
                self._stream, self._left = _HEADER.unpack(self._header)
                self._header = b""


class ContainerOutput:
    """Copies the output that arrives on ``connection``, after ``early``, until its end, in a thread of its own.

    Once :meth:`finish` has returned, ``failure`` says why some of it was lost; "" when all of it was written.
    """

    def __init__(self, connection: socket.socket, early: bytes, stdout: BinaryIO, stderr: BinaryIO) -> None:
        self._connection = connection
        self._early = early
        self._files = {STDOUT: stdout, STDERR: stderr}
        self._written = {STDOUT: 0, STDERR: 0}
        self.failure = ""
        self._thread = threading.Thread(target=self._run, name="container-output", daemon=True)
        self._thread.start()

    def finish(self, timeout: float) -> bool:
        """Wait for the end of the output, at most ``timeout`` seconds; say whether all of it is written."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._fail(f"some of the container's output could not be written within {timeout:g} s of its end")
        return not self.failure

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Stop copying, wherever it is; harmless when it has ended. Does not wait for a write that hangs."""
        with suppress(OSError):  # closed already: the engine was faster
            self._connection.shutdown(socket.SHUT_RDWR)  # wakes the thread, which closes it
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            with self._connection:
                self._copy()
            self._sync()
        except Exception as error:  # whatever it was, the output may be incomplete
            self._fail(f"the container's output was lost: {error}")

    def _copy(self) -> None:
        """Write until the end. A full disk must not block the container, so after a failure reading goes on."""
        frames = Frames()
        data = self._early or self._receive()
        while data:
            for stream, piece in frames.receive(data):
                if not self.failure:
                    self._write(stream, piece)
            data = self._receive()
        if frames.cut:
            self._fail("the Docker engine cut the container's output short")

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(READ_SIZE)
        except ConnectionError as error:
            self._fail(f"the connection to the Docker engine was lost ({error.strerror}), and output with it")
            return b""

    def _write(self, stream: int, piece: bytes) -> None:
        view, file = memoryview(piece), self._files[stream]
        try:
            while view:  # an unbuffered file may take only a part at a time
                taken = file.write(view)
                if not taken:
                    _wait_until_writable(file)
                    continue
                self._written[stream] += taken
                view = view[taken:]
        except OSError as error:
            self._fail_to_write(stream, error)

    def _sync(self) -> None:
        """Make the disk itself confirm everything: a network file system may report only now that it is full."""
        for stream, file in self._files.items():
            try:
                os.fsync(file.fileno())
            except io.UnsupportedOperation:
                continue  # in memory
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EROFS):  # fsync(2): a pipe, a terminal
                    self._fail_to_write(stream, error)

    def _fail_to_write(self, stream: int, error: OSError) -> None:
        name, written = NAMES[stream], self._written[stream]
        self._fail(f"the container's {name} could not be written beyond {written} bytes: {error.strerror or error}")

    def _fail(self, reason: str) -> None:
        """Note the first reason; later ones are its consequences."""
        if not self.failure:
            self.failure = reason
            log.event(logger, "the container's output is not whole", level=logging.ERROR, error=reason)


def _wait_until_writable(file: BinaryIO) -> None:
    """Block until a full pipe that somebody made non-blocking, such as crunch-run's own stdout, takes more."""
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    poll.poll()
