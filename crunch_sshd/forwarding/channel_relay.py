"""A channel joined to a socket: a forwarded connection, whichever side opened it.

Owns the two directions and their ends. EOF passes through each direction separately (RFC 4254 §5.3 and shutdown(2));
the channel is closed when both are over. Each direction waits only for its own reader.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from paramiko.message import Message

from arv_ssh.errors import Unavailable
from crunch_sshd.audit.channel_audit import ChannelAudit, ConnectionAudit
from crunch_sshd.ssh import descriptors, threads
from crunch_sshd.ssh.channel_input import ChannelInput
from crunch_sshd.ssh.transport import GatewayChannel

READ_PACKETS = 8
"""Full packets of data read at a time: 256 KB."""


class SocketSink:
    """A connected socket as the destination of a channel's data; ``over`` is called when it takes no more."""

    def __init__(self, sock: socket.socket, over: Callable[[], None]) -> None:
        self._sock = sock
        self._over = over
        self._lock = threading.Lock()
        self._closed = False

    def write(self, data: bytes | memoryview) -> int:
        with self._lock:
            if self._closed:
                raise BrokenPipeError("the connection is closed")
            try:
                return self._sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return 0
            except OSError as error:
                failure = BrokenPipeError(error.errno, "the connection takes no more data")
        self._over()
        raise failure

    def wait_writable(self, timeout: float) -> bool:
        poll = select.poll()
        with self._lock:
            if self._closed:
                return True  # write will say so
            poll.register(self._sock, select.POLLOUT)
        return bool(poll.poll(timeout * 1000))

    def close_stdin(self) -> None:
        shut_down(self._sock, socket.SHUT_WR)
        self._over()

    def close(self) -> None:
        """Close the socket; the caller has made sure that no thread reads it any more."""
        with self._lock:
            self._closed = True
            self._sock.close()


class ChannelRelay:
    """The handler of a channel that is, or will be, joined to ``sock``. ``over`` is called once, at its end."""

    def __init__(
        self,
        channel: GatewayChannel,
        sock: socket.socket,
        over: Callable[[ChannelRelay], None],
        audit: ChannelAudit | None = None,
    ) -> None:
        self.audit = audit or ConnectionAudit().channel("")
        self._channel = channel
        self._sock = sock
        self._over = over
        self._lock = threading.Lock()
        self._begun = False
        self._input_over = threading.Event()
        self._sink = SocketSink(sock, self._input_over.set)
        self._stdin = ChannelInput(channel)
        self.data_received = self._stdin.data_received
        self.audit.counter = channel
        if sock.family != socket.AF_UNIX:
            with suppress(OSError):  # the far end has already gone
                # As sshd: an interactive protocol may be inside.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def run(self) -> None:
        """Relay until both directions are over, then close the channel. Call once, in a separate thread."""
        if not self._begin():
            return
        try:
            self._relay()
        finally:
            self._release()

    def start(self) -> None:
        """Call :meth:`run` in a new thread. Raises OSError when this host has no room for one."""
        threads.start(self.run, "forward")

    def end(self) -> None:
        """End both directions at once; waiting data is lost. Any thread, whether or not :meth:`run` has begun."""
        self._stdin.close()
        self._input_over.set()
        shut_down(self._sock, socket.SHUT_RDWR)
        if self._begin():
            self._release()

    def _begin(self) -> bool:
        with self._lock:
            first, self._begun = not self._begun, True
        return first

    def _relay(self) -> None:
        self._stdin.attach(self._sink)
        room = self._channel.room(READ_PACKETS)
        areas = room.first
        try:
            while size := self._sock.recvmsg_into(areas)[0]:
                areas = room.areas if size >= room.size else room.first  # as in HostProcess
                self.audit.sent += size
                self._channel.send_room(room, size)
        except OSError:
            pass  # the far end reset the connection, or the client closed the channel: either way nothing more comes
        with suppress(OSError):  # the connection is lost
            self._channel.shutdown_write()
        self._input_over.wait()

    def _release(self) -> None:
        self._stdin.close()
        with suppress(OSError):  # the connection is lost
            self._channel.close()
        self._sink.close()
        self.audit.end()
        self._over(self)

    # The channel's handler.

    def eof_received(self) -> None:
        self._stdin.eof_received()

    def request(self, kind: str, message: Message) -> bool:
        if kind != "eow@openssh.com":
            return False
        self._channel.stop_data()
        shut_down(self._sock, socket.SHUT_RD)
        return True

    def replied(self) -> None:
        pass

    def closed(self) -> None:
        if self._channel.transport.is_active():
            # The client closed the channel: what it sent before is still delivered, as in sshd.
            self._stdin.eof_received()
            shut_down(self._sock, socket.SHUT_RD)
        else:
            self.end()


def shut_down(sock: socket.socket, how: int) -> None:
    """Shut down a direction of a socket, or wake a thread that waits for it; ignore a socket already closed."""
    with suppress(OSError):
        sock.shutdown(how)


class Relays:
    """The relays of one connection: whether there is room for another, and their common end.

    ``check`` raises :class:`Unavailable` when this process has no memory for another.
    """

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        self._check = check
        self._lock = threading.Lock()
        self._places: list[int] = []
        self._running: set[ChannelRelay] = set()
        self._closed = False

    def reserve(self) -> None:
        """Reserve a place for a future relay; raise :class:`Unavailable` with the reason when there is none."""
        self._check()
        with self._lock:
            if self._closed:
                raise Unavailable("the connection is closed")
            try:
                self._places.append(descriptors.reserve())
            except OSError as error:
                raise Unavailable(f"the gateway has no room for another connection ({error.strerror}); close some first"
                                  ) from error  # fmt: skip

    def release(self) -> None:
        """Give back a place that no relay used."""
        with self._lock:
            os.close(self._places.pop())

    def join(self, channel: GatewayChannel, sock: socket.socket, audit: ChannelAudit | None = None) -> ChannelRelay:
        """Return the relay of ``sock``, which moves to a reserved place; when it ends, it notifies ``audit``."""
        with self._lock:
            place = self._places.pop()
        relay = ChannelRelay(channel, descriptors.fill(place, sock), self._over, audit)
        with self._lock:
            self._running.add(relay)
            closed = self._closed
        if closed:
            relay.end()
        return relay

    def _over(self, relay: ChannelRelay) -> None:
        with self._lock:
            self._running.discard(relay)

    def close(self) -> None:
        """End all relays; those still to come end at once."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for relay in running:
            relay.end()
