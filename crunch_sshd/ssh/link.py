"""One connection below a resumable session: a socket, and the engine that turns what passes it into plain bytes.

Owns both. Has no lock of its own: :class:`crunch_sshd.ssh.resumable_socket.ResumableSocket` sees to that. A stream
through the event loop, which has ended TLS, has an engine that changes nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from crunch_sshd.ssh.buffered_socket import IDLE_TICK, RECEIVE_SIZE, set_interval
from crunch_sshd.ssh.memory import untouched

GOODBYE_SIZE = 16 * 1024
"""Bytes of unread plaintext decrypted at a time at the end: one TLS record."""


class Engine(Protocol):
    """What :class:`arv_ssh.net.tls.TlsEngine` does, as far as a link uses it."""

    buffer: memoryview

    @property
    def eof(self) -> bool: ...

    def receive(self, ciphertext: bytes | memoryview) -> None: ...

    def read_into(self, buffer: memoryview) -> int: ...

    def write(self, plaintext: bytes | memoryview) -> None: ...

    def write_eof(self) -> None: ...

    def outgoing(self) -> bytes: ...


class PlainEngine:
    """The engine of a connection that is plain already."""

    def __init__(self) -> None:
        self.buffer = memoryview(b"")
        self._in = b""
        self._position = 0
        self._out: list[bytes] = []
        self._ended = False

    @property
    def eof(self) -> bool:
        """Say whether all was read, up to the end."""
        return self._ended and self._position == len(self._in)

    def receive(self, ciphertext: bytes | memoryview) -> None:
        """Store what arrived; empty means the end."""
        self._in = self._in[self._position :] + bytes(ciphertext)
        self._position = 0
        self._ended = self._ended or not ciphertext

    def read_into(self, buffer: memoryview) -> int:
        """Put what is stored into ``buffer``; return how many bytes."""
        size = min(len(buffer), len(self._in) - self._position)
        buffer[:size] = self._in[self._position : self._position + size]
        self._position += size
        return size

    def write(self, plaintext: bytes | memoryview) -> None:
        """Have ``plaintext`` sent."""
        self._out.append(bytes(plaintext))

    def write_eof(self) -> None:
        """Do nothing: closing the socket says it."""

    def outgoing(self) -> bytes:
        """Return and forget what is to be sent."""
        out, self._out = self._out, []
        return out[0] if len(out) == 1 else b"".join(out)


class Link:
    """The blocking socket ``sock`` with its ``engine``; ``early`` was read and decrypted before.

    ``abort`` cuts what is beyond a socket that is not the connection itself.
    """

    def __init__(
        self, sock: socket.socket, engine: Engine, early: bytes = b"", abort: Callable[[], Any] = lambda: None
    ) -> None:
        self._abort = abort
        self._sock = sock
        self._engine = engine
        self._early = early
        self._received = untouched(RECEIVE_SIZE)
        set_interval(sock, IDLE_TICK)

    @property
    def eof(self) -> bool:
        """Say whether all was read, up to the end."""
        return self._engine.eof and not self._early

    def receive(self) -> memoryview:
        """Return what arrives next, for :meth:`store`; empty at the end. Raises BlockingIOError after a second."""
        return self._received[: self._sock.recv_into(self._received)]

    def store(self, arrived: memoryview) -> None:
        """Give the engine what has arrived."""
        self._engine.receive(arrived)

    def read_into(self, room: memoryview) -> int:
        """Put what has arrived into ``room``, as far as it goes; return how many bytes."""
        if not self._early:
            return self._engine.read_into(room)
        size = min(len(room), len(self._early))
        room[:size], self._early = self._early[:size], self._early[size:]
        return size + self._engine.read_into(room[size:])

    def seal(self, frame: bytes | memoryview) -> bytes:
        """Return what to send for ``frame``, with all that waits before it."""
        self._engine.write(frame)
        return self._engine.outgoing()

    def send(self, sealed: memoryview) -> int:
        """Send some; return how many bytes. Raises BlockingIOError when nothing went for a second."""
        return self._sock.send(sealed)

    def say_goodbye(self, frame: bytes) -> None:
        """Send ``frame`` and our end, as far as they go at once."""
        with suppress(OSError):  # the connection is lost, so nobody hears it
            self._engine.buffer = memoryview(bytearray(GOODBYE_SIZE))
            self._engine.write(frame)
            self._engine.write_eof()
            self._sock.send(self._engine.outgoing(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def cut(self) -> None:
        """End it without an end of TLS, by which controllers know that the session may go on. Any thread."""
        self.end()
        self._abort()

    def end(self) -> None:
        """End it, and wake whoever waits in it. Any thread."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def __del__(self) -> None:
        """Close the descriptor once no thread uses it any more: closed before, its number could be another's."""
        self._sock.close()
