"""ssh-proxy's relay for a session that outlives its connection: it dials again, and goes on at the exact byte.

Owns the joining of :class:`arv_ssh.resume.core.ResumableStream` to the relay, and what waits for a slow reader of
stdout: the connection is read all the same, for it also brings confirmations and signs of life. How it is dialled again
is :mod:`arv_ssh.client.redial`'s.
"""

from __future__ import annotations

import select
import time
from collections import deque

from arv_ssh.client.relay import Cut, HungUp, PollRelay
from arv_ssh.client.transport import BUFFER_SIZE
from arv_ssh.errors import BadGateway
from arv_ssh.net.bare import socket, ssl
from arv_ssh.resume.core import WINDOW, LinkLost, PeerError, ResumableStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from arv_ssh.client.controller import AcceptedUpgrade
    from arv_ssh.client.redial import Redial

TICK = 1.0
"""Seconds between two looks at the time while nothing happens."""
STUCK_AFTER = 0.5
"""Seconds that stdout takes nothing before the connection is read without it; to store costs more than to wait."""
LEAST_ROOM = 64 * 1024
"""Bytes for which there must be room when stdin is read: the pipe may hold a lot."""
LINGER = 2.0
"""Seconds for the goodbye to arrive: to close with unread bytes is a reset, which could overtake it."""


class ResumingRelay(PollRelay):
    """One session's bytes, over as many connections as it takes. ``redial`` makes the next one."""

    check_interval = TICK

    def __init__(
        self,
        session: AcceptedUpgrade,
        stdin: int,
        stdout: int,
        greeted: Callable[[bytes], None] | None,
        redial: Redial,
    ) -> None:
        super().__init__(session.connection, stdin, stdout, b"", greeted)
        self._redial = redial
        self._stream = ResumableStream()
        self._early = session.first
        self._again: deque[bytes | memoryview] = deque()  # frames that the far end lacks after a cut
        self._waiting: deque[bytes] = deque()  # for stdout, after what is in _down
        self._waiting_size = 0
        self._borrowed = False  # _down is a part of _plain
        self._stuck_since: float | None = None
        self._looked = time.monotonic()
        self._fresh = True  # nobody has looked at what came with the answer, nor sent what the far end lacks

    def close(self) -> None:
        """Do nothing: the goodbye was said at the end of :meth:`run`."""

    # What differs from an ordinary stream.

    def _ended(self) -> bool:
        return self._stream.peer_ended and not self._waiting

    def _room(self) -> memoryview:
        return self._stream.place(LEAST_ROOM)

    def _put(self, data: memoryview) -> None:
        self._engine.write(self._stream.filled(len(data)))

    def _put_end(self) -> None:
        self._engine.write(self._stream.end())

    def _may_send(self) -> bool:
        return not self._up and not self._again and self._stream.room > 0

    def _sock_interest(self) -> int | None:
        readable = not self._stream.peer_left and (not self._down or self._may_read())
        return (select.POLLIN if readable else 0) | (select.POLLOUT if self._up or self._again else 0) or None

    def _may_read(self) -> bool:
        if not self._down:
            return True
        stuck = self._stuck_since is not None and time.monotonic() - self._stuck_since >= STUCK_AFTER
        return stuck and self._waiting_size < WINDOW

    def _serve_sock(self, event: int) -> None:
        if event & ~select.POLLIN and (self._up or self._again):
            self._send_again()
        if event & ~select.POLLOUT and not self._stream.peer_left and (not self._down or self._may_read()):
            self._receive()

    def _relay(self) -> None:
        while not self._finished():
            try:
                if self._fresh:
                    self._begin()
                self._step()
                if time.monotonic() - self._looked >= TICK:
                    self._look()
            except Cut as error:
                self._reconnect(error)
            except ssl.SSLError as error:
                self._reconnect(self._failure(error))

    def _check_alive(self) -> None:
        """Leave it to :meth:`_look`, which also sees a connection that is busy in one direction only."""

    def _look(self) -> None:
        """Ask a silent far end for a sign of life, and give one, about once a second."""
        self._looked = now = time.monotonic()
        look = self._stream.silent if self._may_read() else self._stream.alive
        try:
            self._say(look(now, len(self._down) + self._waiting_size))
        except LinkLost as error:
            raise Cut(f"the connection to {self._peer} is dead: {error}") from error

    def _say(self, frame: bytes) -> None:
        if frame:
            self._engine.write(frame)
            self._send()

    def _send_again(self) -> None:
        """Send what is under way, and then what the far end lacks after a cut."""
        self._send()
        while self._again and not self._up:
            self._engine.write(self._again.popleft())
            self._send()

    def _begin(self) -> None:
        """Begin to use a connection."""
        self._fresh = False
        self._send_again()
        self._arrived()

    def _receive(self) -> None:
        try:
            size = self._sock.recv_into(self._taken)
        except BlockingIOError:
            return
        except OSError as error:
            raise self._failure(error) from error
        self._engine.receive(self._taken[:size])
        self._arrived()

    def _arrived(self) -> None:
        """Take what has arrived, and answer; raise :class:`Cut` when that was damaged, or the end."""
        try:
            self._drain()
        except PeerError as error:
            raise Cut(f"the connection to {self._peer} is unusable: {error}") from error
        except OSError as error:
            raise self._failure(error) from error
        self._looked = now = time.monotonic()
        self._write_stdout()
        if frame := self._stream.answer(now, len(self._down) + self._waiting_size):
            self._engine.write(frame)
        self._send()  # TLS may have something to say of its own, too
        if self._engine.eof and not self._stream.peer_left:
            raise Cut(f"{self._peer} closed the connection in the middle of the session")

    def _drain(self) -> None:
        """Take what has arrived: for stdout at once if that is free, else into memory."""
        stream, source = self._stream, self._source if self._early else self._engine.read_into
        while True:
            if self._down and self._borrowed:  # what is in the buffer comes first, and the buffer is needed
                self._down, self._borrowed = memoryview(bytes(self._down)), False
            size = stream.take(source, self._plain)
            if self._down or self._waiting:
                self._store(self._plain[:size])
            else:
                self._down, self._borrowed = self._plain[:size], True
            if not stream.more or stream.peer_left:
                break
            self._write_stdout()
        if self._waiting and not self._down:
            self._next()

    def _source(self, room: memoryview) -> int:
        size = min(len(room), len(self._early))
        room[:size], self._early = self._early[:size], self._early[size:]
        return size + self._engine.read_into(room[size:])

    def _store(self, data: memoryview) -> None:
        if data and not self._stdout_gone:
            self._waiting.append(bytes(data))
            self._waiting_size += len(data)

    def _next(self) -> None:
        following = self._waiting.popleft()
        self._waiting_size -= len(following)
        self._down, self._borrowed = memoryview(following), False

    def _write_stdout(self) -> None:
        super()._write_stdout()
        while self._waiting and not self._down:
            self._next()
            super()._write_stdout()
        if self._down:
            self._stuck_since = self._stuck_since or time.monotonic()
        elif self._stuck_since is not None:
            self._stuck_since = None
            self._say(self._stream.due(self._looked, 0))  # what was not confirmed while it waited here

    def _lose_stdout(self) -> None:
        super()._lose_stdout()
        self._waiting.clear()
        self._waiting_size = 0

    # The end of a connection, and of the session.

    def _reconnect(self, error: Cut) -> None:
        self._forget()
        self._at_rest = True
        try:
            if self._hung_up is not None:
                raise HungUp(self._hung_up)
            session, have = self._redial.resume(self._stream.received, error)
        finally:
            self._at_rest = False
        self._take_over(session.connection)
        try:
            self._again.extend(self._stream.resume(have))
        except PeerError as wrong:
            raise BadGateway(f"the session can not go on: its two ends disagree ({wrong}); report this") from wrong
        self._sock.setblocking(False)
        self._early, self._fresh, self._looked = session.first, True, time.monotonic()

    def _forget(self) -> None:
        """Close a lost connection, with all that was under way."""
        for fd in (self._stdin, self._sock.fileno(), self._stdout):
            if fd in self._polled:
                self._want(fd, None)
        self._sock.close()
        self._up = memoryview(b"")
        self._again.clear()
        self._early = b""

    def _leave(self) -> None:
        """Say goodbye, without which the gateway would wait for us: anew, where it is stuck behind what went before."""
        if self._sock.fileno() < 0:
            return
        heard = self._say_goodbye() or self._stream.peer_left
        again = None if heard else self._redial.leave(self._stream.received)
        if again is not None:
            self._take_over(again.connection)
            self._up = memoryview(b"")
            self._say_goodbye()

    def _say_goodbye(self) -> bool:
        """Say it and close the connection; return whether the far end has closed it, too."""
        try:
            self._engine.write(self._stream.goodbye())
            self._engine.write_eof()
            self._up = memoryview(bytes(self._up) + self._engine.outgoing())
            return self._linger()
        except OSError:
            return False  # the connection is lost just now
        finally:
            self._sock.close()

    def _linger(self) -> bool:
        deadline = time.monotonic() + LINGER
        while (left := deadline - time.monotonic()) > 0:
            poll = select.poll()
            poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._up else 0))
            for _, event in poll.poll(left * 1000):
                if event & select.POLLOUT:
                    self._up = self._up[self._sock.send(self._up) :]
                    if not self._up:
                        self._sock.shutdown(socket.SHUT_WR)
                if event & ~select.POLLOUT and not self._sock.recv(BUFFER_SIZE):
                    return True
        return False
