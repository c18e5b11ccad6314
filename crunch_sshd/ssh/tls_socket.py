"""A TLS connection that an SSH connection's own thread reads, as a :class:`BufferedSocket`.

Owns the use of one TLS engine by two threads: the reader and the current sender. Without it the bytes would go through
an event loop and a socketpair: two more threads to wake for each key that a user types.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from arv_ssh.net.tls import TlsEngine
from crunch_sshd.ssh.buffered_socket import RECEIVE_SIZE, BufferedSocket
from crunch_sshd.ssh.memory import untouched

SEALED_AT_ONCE = 128 * 1024
"""Bytes encrypted before they are sent: measured alone, twice or four times as many take 10 and 40 % more time."""
GOODBYE_SIZE = 16 * 1024
"""Bytes of unread plaintext decrypted at a time at the end: one TLS record."""


class TlsSocket(BufferedSocket):
    """The blocking socket ``sock``, whose handshake ``engine`` has done; ``early`` was read and decrypted before."""

    def __init__(self, sock: socket.socket, engine: TlsEngine, early: bytes = b"") -> None:
        super().__init__(sock, early)
        self._engine = engine
        self._using_engine = threading.Lock()
        self._sending = threading.Lock()
        self._received = untouched(RECEIVE_SIZE)
        self.failure: OSError | None = None
        """Why the connection was lost; None while it is up, after an orderly end, and after we closed it."""
        self._closed = False

    def _receive_into(self, room: memoryview) -> int:
        """Return 0 for a cut too: SSH authenticates its own packets, so it treats both as the end."""
        engine = self._engine
        try:
            if engine.more and ((size := self._decrypt(room)) or engine.eof):
                return size
            while not ((size := self._decrypt(room, self._sock.recv_into(self._received))) or engine.eof):
                pass  # not a whole record yet
            return size
        except BlockingIOError:
            raise  # nothing has come for the poll interval
        except OSError as error:
            if not self._closed:
                self.failure = self.failure or error
            return 0

    def _decrypt(self, room: memoryview, received: int | None = None) -> int:
        with self._using_engine:
            if received is not None:
                self._engine.receive(self._received[:received])
            return self._engine.read_into(room)

    def send(self, data: bytes | memoryview) -> int:
        """Send all of ``data``; return how many bytes. Blocks while the peer takes none; :meth:`close` wakes it."""
        plain = memoryview(data)
        with self._sending:
            for start in range(0, len(plain), SEALED_AT_ONCE):
                self._send_sealed(plain[start : start + SEALED_AT_ONCE])
        return len(plain)

    def _send_sealed(self, plain: memoryview) -> None:
        with self._using_engine:
            self._engine.write(plain)
            sealed = memoryview(self._engine.outgoing())
        while sealed:
            with suppress(BlockingIOError):  # SO_SNDTIMEO; half a record cannot be left unsent
                sealed = sealed[self._sock.send(sealed) :]

    def cut(self, reason: OSError) -> None:
        """End the connection at once because of ``reason``. Any thread."""
        self.failure = self.failure or reason
        super().close()

    def close(self) -> None:
        """Close with a goodbye (RFC 8446 §6.1), unless another thread is in the middle of sending."""
        self._closed = True
        if self._sending.acquire(blocking=False):
            try:
                self._say_goodbye()
            finally:
                self._sending.release()
        super().close()

    def _say_goodbye(self) -> None:
        with suppress(OSError):  # the connection is lost or already closed, so no peer hears it
            with self._using_engine:
                self._engine.buffer = memoryview(bytearray(GOODBYE_SIZE))
                self._engine.write_eof()
                sealed = self._engine.outgoing()
            self._sock.send(sealed, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
