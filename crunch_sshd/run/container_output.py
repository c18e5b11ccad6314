"""A container's output: read from the engine's attach stream, written to two files.

Owns the stream's frames (Docker API ``containers/attach``: one byte stream number, three zero bytes, four bytes
length), the connection and the thread that reads it. Knows nothing of containers.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from arv_ssh import log

logger = logging.getLogger(__name__)

STDOUT, STDERR = 1, 2
READ_SIZE = 256 * 1024

_HEADER = struct.Struct(">BxxxL")


class Frames:
    """Takes the stream's bytes in any pieces, gives (stream number, bytes) as soon as they are there."""

    def __init__(self) -> None:
        self._header = b""
        self._stream = 0
        self._left = 0

    def receive(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield what ``data`` holds of each stream; the iterator must be used up before the next call."""
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
    """Copies the output that arrives on ``connection``, after ``early``, until its end, in a thread of its own."""

    def __init__(self, connection: socket.socket, early: bytes, stdout: BinaryIO, stderr: BinaryIO) -> None:
        self._connection = connection
        self._early = early
        self._files = {STDOUT: stdout, STDERR: stderr}
        self._thread = threading.Thread(target=self._copy, name="container-output", daemon=True)
        self._thread.start()

    def finish(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until all of it is written; say whether it is."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Stop copying, wherever it is; harmless when it has ended."""
        with suppress(OSError):  # closed already: the engine was faster
            self._connection.shutdown(socket.SHUT_RDWR)  # wakes the thread, which closes it
        self._thread.join()

    def _copy(self) -> None:
        """Write until the end. A full disk must not block the container, so after a failure reading goes on."""
        frames = Frames()
        failed = False
        with self._connection:
            data = self._early or self._receive()
            while data:
                for stream, piece in frames.receive(data):
                    if not failed:
                        failed = not self._write(stream, piece)
                data = self._receive()

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(READ_SIZE)
        except ConnectionError:
            return b""  # the engine went away, which wait() tells as well

    def _write(self, stream: int, piece: bytes) -> bool:
        view = memoryview(piece)
        try:
            while view:  # an unbuffered file may take only a part at a time
                view = view[self._files[stream].write(view) :]
        except OSError as error:
            log.event(logger, "the container's output is lost from here on", level=logging.ERROR, error=str(error))
            return False
        return True
