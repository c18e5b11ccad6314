"""A channel (RFC 4254 §5) whose input goes straight to its handler, and whose output leaves in large pieces.

Owns the windows of both directions. Opens private doors of paramiko's channel, each held by a test in
``tests/unit/crunch_sshd/ssh/test_transport.py``: the methods through which a transport passes it messages, and the
condition that the client's window has changed. Does not know what the data is.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Protocol, TypeVarTuple, cast

import paramiko
from paramiko import common
from paramiko.message import Message

from crunch_sshd.ssh.aes_gcm import BATCH, BLOCK, packet_room
from crunch_sshd.ssh.limits import WINDOW_SIZE
from crunch_sshd.ssh.memory import Room
from crunch_sshd.ssh.packetizer import GatewayPacketizer, Packet

WINDOW_STEP = WINDOW_SIZE // 4
"""Bytes consumed before the client may send more: seldom, since that wakes it, but long before it has to wait."""
PACKET_SIZE = 32 * 1024
"""Bytes of data in one packet, as in OpenSSH."""

Values = TypeVarTuple("Values")


class ChannelHandler(Protocol):
    """What a channel reports to its owner, always on the transport thread: record and signal, never block."""

    def data_received(self, data: bytes | memoryview) -> None:
        """Take data from the client, valid only until this returns; call ``channel.consumed`` when as much may come."""

    def eof_received(self) -> None:
        """Note that the client sends no more data."""

    def request(self, kind: str, message: Message) -> bool:
        """Act on a channel request (RFC 4254 §5.4) and say whether it succeeded."""

    def replied(self) -> None:
        """Note that the reply to the last request has been sent."""

    def closed(self) -> None:
        """Note that the channel is gone: closed by the client, or the connection lost. May come twice."""


class Connection(Protocol):
    """What a channel needs from its transport, :class:`crunch_sshd.ssh.transport.GatewayTransport`."""

    packetizer: GatewayPacketizer

    def send_on(self, channel: GatewayChannel, send: Callable[[*Values], None], *values: *Values) -> None:
        """Call ``send``, which sends something on ``channel``, with ``values`` when its turn comes."""

    def _send_user_message(self, data: Message | Packet) -> None: ...

    def is_active(self) -> bool:
        """Say whether the connection is up."""


class GatewayChannel(paramiko.Channel):
    """A channel whose input goes straight to its handler."""

    transport: Connection  # type: ignore[assignment] # paramiko knows its own

    def __init__(self, chanid: int) -> None:
        super().__init__(chanid)
        self.handler: ChannelHandler
        self._arrived = self._discarded = 0  # only the transport thread changes them
        self._consumed = 0
        self._untold = 0
        self._data_unread = False

    @property
    def received(self) -> int:
        """Bytes of data that the handler has got from the client: neither extended data, nor what came after EOF."""
        return self._arrived - self._discarded

    def consumed(self, size: int) -> None:
        """Let the client send ``size`` more bytes. Any thread."""
        with self.lock:
            self._consumed += size
            self._untold += size
            if self._untold < WINDOW_STEP or self.closed or self.eof_received:
                return
            more, self._untold = self._untold, 0
        head = common.cMSG_CHANNEL_WINDOW_ADJUST + self.remote_chanid.to_bytes(4, "big")
        self.transport._send_user_message(Packet(head + more.to_bytes(4, "big")))

    def room(self, packets: int = BATCH) -> Room:
        """Return a room for :meth:`send_room`, with the data of ``packets`` full packets."""
        return packet_room(min(self.out_max_packet_size, PACKET_SIZE), packets)

    def send_data(self, data: bytes, data_type: int = 0) -> None:
        """Send all of ``data`` as :meth:`send_room` does, in less memory: it may say that there is none."""
        packet = min(self.out_max_packet_size, PACKET_SIZE, len(data) + BLOCK)
        room, rest = packet_room(packet, 1), memoryview(data)
        while rest:
            size = room.fill(rest)
            self.send_room(room, size, data_type)
            rest = rest[size:]

    def send_room(self, room: Room, size: int, data_type: int = 0) -> None:
        """Send the first ``size`` bytes in ``room``, which are then written over, waiting for the client's window.

        The room is one of :meth:`room`; ``data_type`` 1 is stderr (RFC 4254 §5.2). After :meth:`stop_data`, plain data
        is dropped. Raises OSError when the channel is closed. Any thread, but not the transport's.
        """
        start, transport = 0, self.transport
        while start < size:
            stop = start + self._take_window(size - start, data_type)
            if stop == start:
                return
            if stop < size:
                behind = room.behind(stop)
                kept = bytes(behind)
            transport.send_on(self, transport.packetizer.send_room, room, start, stop, self.remote_chanid, data_type)
            if stop < size:
                behind[:] = kept
            start = stop

    def _take_window(self, wanted: int, data_type: int) -> int:
        """Return how much of ``wanted`` may be sent now, perhaps several packets; waits for at least one byte.

        0 means that the client reads no more of it.
        """
        with self.lock:
            while True:
                if self.closed or self.eof_sent:
                    raise BrokenPipeError(errno.EPIPE, "the channel is closed")
                if self._data_unread and not data_type:
                    return 0
                if size := self.out_window_size if self.out_window_size < wanted else wanted:
                    self.out_window_size -= size
                    return size
                self.out_buffer_cv.wait()

    def stop_data(self) -> None:
        """Drop all plain data that is not sent yet: the client reads no more of it. Any thread."""
        with self.lock:
            self._data_unread = True
            self.out_buffer_cv.notify_all()

    def send_request(self, kind: str, *values: int | str | bytes | bool) -> None:
        """Send a channel request that wants no reply, e.g. ``exit-signal`` (RFC 4254 §6.10). Any thread."""
        message = Message()
        message.add_byte(common.cMSG_CHANNEL_REQUEST)
        message.add_int(self.remote_chanid)
        message.add_string(kind)
        message.add_boolean(False)
        for value in values:
            if isinstance(value, bool):
                message.add_boolean(value)
            elif isinstance(value, int):
                message.add_int(value)
            else:
                message.add_string(value)
        self._send_unless_closed(message)

    def shutdown_write(self) -> None:
        """Tell the client that no more data is coming. Any thread but the transport's."""
        with self.lock:
            message = self._send_eof()  # type: ignore[attr-defined]
        if message is not None:
            self._send_unless_closed(message)

    def _send_unless_closed(self, message: Message) -> None:
        if cast(object, self.transport) is threading.current_thread():
            self.transport._send_user_message(message)  # before the close, which this thread sends in the same way
        else:
            self.transport.send_on(self, self.transport.packetizer.send_message, message)

    def window_adjusted(self, size: int) -> None:
        """Note that the client takes ``size`` more bytes. Transport thread."""
        with self.lock:
            if not self.out_window_size:  # else nobody waits for it
                self.out_buffer_cv.notify_all()
            self.out_window_size += size

    def feed(self, data: bytes | memoryview) -> None:
        """Take data from the client. Transport thread."""
        self._arrived += len(data)
        # Without the lock: what the client was told of, it was told after it was counted.
        if self._arrived - self._consumed > WINDOW_SIZE:
            self._discarded += len(data)
            raise paramiko.SSHException("the client sent more than the channel's window allows")
        if not self.closed and not self.eof_received:
            self.handler.data_received(data)
        else:
            self._discarded += len(data)

    def _feed_extended(self, message: Message) -> None:
        # A client has no use for extended data (RFC 4254 §5.2 defines only stderr), but the data uses up the window.
        message.get_int()
        size = len(message.get_binary())
        self._arrived += size
        self._discarded += size
        self.consumed(size)

    def _handle_eof(self, message: Message) -> None:
        super()._handle_eof(message)  # type: ignore[misc]
        self.handler.eof_received()

    def _handle_close(self, message: Message) -> None:
        super()._handle_close(message)  # type: ignore[misc]
        self.handler.closed()

    def _unlink(self) -> None:
        super()._unlink()  # type: ignore[misc]
        self.handler.closed()

    def _handle_request(self, message: Message) -> None:
        kind = message.get_binary().decode("utf-8", "replace")
        want_reply = message.get_boolean()
        succeeded = self.handler.request(kind, message)
        if want_reply:
            reply = Message()
            reply.add_byte(common.cMSG_CHANNEL_SUCCESS if succeeded else common.cMSG_CHANNEL_FAILURE)
            reply.add_int(self.remote_chanid)
            self.transport._send_user_message(reply)
        self.handler.replied()
