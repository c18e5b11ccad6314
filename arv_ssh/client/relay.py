"""ssh-proxy's relay: stdin to TLS and TLS to stdout in one poll() loop, each direction with its own end.

Owns both descriptors and the connection until the session is over. A direction is read only while its last buffer has
gone out (back-pressure), and a descriptor that is not wanted is not polled at all: poll() reports a hang-up unasked,
and a loop that cannot act on one would spin.
"""

from __future__ import annotations

import os
import select
import stat
import sys

from arv_ssh.client.transport import BUFFER_SIZE, Connection
from arv_ssh.errors import BadGateway
from arv_ssh.net.bare import socket, ssl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CHECK_INTERVAL = 5.0
"""Seconds of silence after which the peer's signs of life are looked at."""

VANISHED_AFTER = 45.0
"""Seconds without an acknowledgement after which the peer is gone. Keepalive asks for one every 15 s at the most."""

PIPE_SIZE = 1024 * 1024
"""Bytes of kernel buffer in the pipes from and to ssh: as much as any user may ask for (pipe(7))."""

PLAIN_SIZE = BUFFER_SIZE + 32 * 1024
"""Bytes of room for plaintext: of all that one read brings, and of the record that the read before it had cut."""

TERMINAL_WRITE = 4096

_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL if hasattr(select, "POLLERR") else 0
_LAST_ACK_RECV = 56
"""Offset of ``tcpi_last_ack_recv`` (milliseconds, u32) in Linux' ``struct tcp_info``."""


class Cut(BadGateway):
    """The connection was lost before its end."""


class HungUp(SystemExit):
    """A signal asks us to leave."""


class PollRelay:
    """One session's bytes. ``first`` are bytes for stdout that came with the answer's head.

    ``greeted`` is called with the first bytes from stdin, the client's identification (RFC 4253 §4.2). What a stream
    needs that outlives its connection is in :class:`arv_ssh.client.resuming.ResumingRelay`.
    """

    check_interval = CHECK_INTERVAL

    def __init__(
        self,
        connection: Connection,
        stdin: int,
        stdout: int,
        first: bytes = b"",
        greeted: Callable[[bytes], None] | None = None,
    ) -> None:
        self._take_over(connection)
        self._hung_up: int | None = None  # the status to leave with
        self._at_rest = False
        self._stdin, self._stdout = stdin, stdout
        # Read into each time: a new object of that size is a mapping made, faulted in and given back for each key.
        self._taken = memoryview(bytearray(BUFFER_SIZE))  # what was read last, from either side
        self._plain = memoryview(bytearray(PLAIN_SIZE))
        self._up = memoryview(b"")  # ciphertext for the peer
        self._down = memoryview(first)  # plaintext for stdout, most often a part of the above
        self._stdin_ended = False
        self._stdout_gone = False  # its reader has gone
        self._down_done = False  # the peer's EOF is passed on, or its reader has gone
        self._greeted = greeted
        self._write_size = TERMINAL_WRITE
        self._poll = select.poll()
        self._polled: dict[int, int] = {}

    def _take_over(self, connection: Connection) -> None:
        self._connection = connection
        self._sock = connection.sock
        self._engine = connection.engine
        self._peer = connection.peer

    def hang_up(self, status: int) -> None:
        """Leave with ``status`` (:class:`HungUp`): at once while nothing happens, or else as soon as a step is done.

        For a signal handler: a step that is broken off could leave half a record behind, and so look like a cut.
        """
        first, self._hung_up = self._hung_up is None, status
        if first and self._at_rest:
            raise HungUp(status)

    def close(self) -> None:
        """Close the connection in order, as far as that goes at once."""
        self._connection.close()

    def run(self) -> None:
        """Relay until both directions have ended; raise :class:`Cut` when the connection was."""
        blocking = _set_nonblocking(self._stdout)
        # A terminal or a file stays blocking (its flags are shared with the shell), so it gets what it takes at once.
        self._write_size = TERMINAL_WRITE if os.get_blocking(self._stdout) else BUFFER_SIZE
        for pipe in (self._stdin, self._stdout):
            _widen(pipe)
        self._sock.setblocking(False)
        try:
            self._write_stdout()
            self._relay()
        except ssl.SSLError as error:
            raise self._failure(error) from error
        finally:
            self._at_rest = False
            self._leave()
            if blocking:
                os.set_blocking(self._stdout, True)

    def _relay(self) -> None:
        while not self._finished():
            self._step()

    def _leave(self) -> None:
        if self._up:
            self._sock.close()  # no orderly end in the middle of a record

    def _finished(self) -> bool:
        if self._stdin_ended and self._stdout_gone:
            return True  # ssh has gone: drop what is still under way
        return self._stdin_ended and self._down_done and not self._up

    def _step(self) -> None:
        stdin, stdout, sock = self._stdin, self._stdout, self._sock.fileno()
        self._want(stdin, self._stdin_interest())
        self._want(sock, self._sock_interest())
        self._want(stdout, None if self._stdout_gone or self._down_done else select.POLLOUT if self._down else 0)
        ready = self._rest()
        if not ready:
            self._check_alive()
        for fd, event in ready:
            if fd == stdout and event & _GONE:
                self._lose_stdout()
            elif fd == stdout:
                self._write_stdout()
            elif fd == stdin and self._polled.get(fd) == 0:
                self._stdin_ended = True  # polled for a hang-up only: both pipes are gone
            elif fd == stdin:
                self._read_stdin()
            else:
                self._serve_sock(event)

    def _rest(self) -> list[tuple[int, int]]:
        """Wait for something to do: what there is to do, nothing after :attr:`check_interval`."""
        self._at_rest = True
        try:
            if self._hung_up is not None:
                raise HungUp(self._hung_up)
            return self._poll.poll(self.check_interval * 1000)
        finally:
            self._at_rest = False

    def _stdin_interest(self) -> int | None:
        if self._stdin_ended:
            return None
        if self._may_send():
            return select.POLLIN
        return 0 if self._stdout_gone else None

    def _may_send(self) -> bool:
        return not self._up

    def _sock_interest(self) -> int | None:
        readable = not self._ended() and not self._down
        return (select.POLLIN if readable else 0) | (select.POLLOUT if self._up else 0) or None

    def _want(self, fd: int, mask: int | None) -> None:
        if self._polled.get(fd) == mask:
            return
        if mask is None:
            self._poll.unregister(fd)
            del self._polled[fd]
        else:
            self._poll.register(fd, mask)
            self._polled[fd] = mask

    def _read_stdin(self) -> None:
        room = self._room()
        try:
            data = room[: os.readv(self._stdin, (room,))]
        except BlockingIOError:
            return
        except OSError:
            data = room[:0]  # a terminal that hung up says EIO, a socket that was reset ECONNRESET
        if self._greeted:
            self._greeted(bytes(data))
            self._greeted = None
        if data:
            self._put(data)
        else:
            self._stdin_ended = True
            self._put_end()
        self._send()

    def _ended(self) -> bool:
        """Say whether the far end will send no more."""
        return self._engine.eof

    def _room(self) -> memoryview:
        """Return where to read stdin to."""
        return self._taken

    def _put(self, data: memoryview) -> None:
        """Send what was read to :meth:`_room`."""
        self._engine.write(data)

    def _put_end(self) -> None:
        self._engine.write_eof()

    def _serve_sock(self, event: int) -> None:
        if event & ~select.POLLIN and self._up:
            self._send()
        if event & ~select.POLLOUT and not self._ended() and not self._down:
            self._receive()

    def _send(self) -> None:
        more = self._engine.outgoing()
        if more:
            self._up = memoryview(bytes(self._up) + more) if self._up else memoryview(more)
        try:
            while self._up:
                self._up = self._up[self._sock.send(self._up) :]
        except BlockingIOError:
            pass
        except OSError as error:
            if not self._ended():
                raise self._failure(error) from error
            # The peer had ended its direction in order before it closed ours: nothing went wrong.
            self._up = memoryview(b"")
            self._stdin_ended = True

    def _receive(self) -> None:
        try:
            self._engine.receive(self._taken[: self._sock.recv_into(self._taken)])
            self._down = self._plain[: self._engine.read_into(self._plain)]
        except BlockingIOError:
            return
        except OSError as error:
            raise self._failure(error) from error
        self._send()  # TLS may have something to say of its own
        self._write_stdout()

    def _write_stdout(self) -> None:
        try:
            while self._down and not self._stdout_gone:
                self._down = self._down[os.write(self._stdout, self._down[: self._write_size]) :]
        except BlockingIOError:
            return
        except OSError:
            self._lose_stdout()
        if self._stdout_gone:
            self._down = memoryview(b"")
        if self._ended() and not self._down:
            self._end_stdout()

    def _lose_stdout(self) -> None:
        self._stdout_gone = self._down_done = True
        self._down = memoryview(b"")
        self._want(self._stdout, None)

    def _end_stdout(self) -> None:
        """Pass the peer's EOF on, keeping the number taken: stdout may be a socket that stdin shares."""
        if self._down_done:
            return
        self._down_done = True
        self._want(self._stdout, None)
        if stat.S_ISSOCK(os.fstat(self._stdout).st_mode):
            out = socket.socket(fileno=os.dup(self._stdout))
            try:
                out.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # its reader has closed it already
            finally:
                out.close()
            return
        os.dup2(self._stdin, self._stdout)  # which needs no new descriptor: there may be none

    def _check_alive(self) -> None:
        """Raise when the peer has acknowledged nothing for long.

        TCP_USER_TIMEOUT would do it in the kernel, but ends a connection whose peer is alive and only reads slowly too
        (zero window; Linux 5.11 and later), and a stopped program at the far end is not a failure.
        """
        if sys.platform != "linux":
            return
        info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        silence = int.from_bytes(info[_LAST_ACK_RECV : _LAST_ACK_RECV + 4], sys.byteorder) / 1000
        if silence > VANISHED_AFTER:
            raise Cut(f"{self._peer} has vanished: no sign of life for {silence:.0f} s; check the network")

    def _failure(self, error: OSError) -> Cut:
        if isinstance(error, ssl.SSLError):
            return Cut(f"the connection to {self._peer} was cut; reconnect")
        return Cut(f"the connection to {self._peer} failed: {(error.strerror or str(error)).lower()}; reconnect")


def _set_nonblocking(fd: int) -> bool:
    """Make a pipe or a socket non-blocking; say whether it was blocking. Anything else is left as it is."""
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) or not os.get_blocking(fd):
        return False
    os.set_blocking(fd, False)
    return True


def _widen(fd: int) -> None:
    """Let a pipe hold a whole buffer where the system can do that: fewer switches between ssh and us."""
    if sys.platform == "linux" and stat.S_ISFIFO(os.fstat(fd).st_mode):
        import fcntl  # not everywhere where this module can be imported

        try:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:
            pass  # this user's pipes have all the memory that they may have (pipe(7))
