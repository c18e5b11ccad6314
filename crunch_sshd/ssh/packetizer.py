"""SSH's binary packets (RFC 4253 §6) under AES-GCM (RFC 5647), with few copies and few system calls.

Owns the cost of a packet; that of its bytes is ``aes_gcm.py``'s. Paramiko's packetizer does the first key exchange and
every cipher other than AES-GCM; its private counters are kept right, so that a later key exchange may switch to any
other cipher. Opens these private doors of paramiko 5.1: the packetizer's sequence numbers, its wish for new keys,
``_trigger_rekey`` and ``_read_timeout``. Knows nothing of channels except messages with data and window adjusts (RFC
4254 §5.2), and that only the newest window-change (§6.7) counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Any

import paramiko
from paramiko import common
from paramiko.message import Message
from paramiko.packet import NeedRekeyException, Packetizer

from crunch_sshd.ssh.aes_gcm import Data, Direction, data_head
from crunch_sshd.ssh.buffered_socket import BufferedSocket
from crunch_sshd.ssh.limits import IDENTIFICATION_SIZE
from crunch_sshd.ssh.memory import Room

REKEY_BYTES = 1 << 35
"""Bytes in one direction after which keys are changed. RFC 4344 §3.2 allows 2^32 blocks of 16 bytes, twice as much."""
LAST_NUMBER = 0xFFFFFFFF
"""The last sequence number; 0 follows (RFC 4253 §6.4)."""

_LENGTH = Struct(">I")
_DATA = Struct(">II")
_ADJUST_SIZE = 1 + 1 + _DATA.size
"""Bytes of a decrypted packet with a window adjust, without its padding: a channel, and the bytes."""
_REQUEST_KIND = 1 + 1 + 4
"""Where a channel request's kind begins in a decrypted packet, with its length: after the type and the channel."""
_RESIZE = _LENGTH.pack(len("window-change")) + b"window-change" + b"\0"
"""The kind of a window-change that wants no reply (RFC 4254 §6.7)."""
_RESIZE_END = _REQUEST_KIND + len(_RESIZE)

Sink = Callable[[int, memoryview], bool]
"""Takes a channel's number and data, which it must not keep; False has paramiko handle the message instead."""
Adjust = Callable[[int, int], bool]
"""The same for the bytes by which the client makes a channel's window larger: 3,500 times a gigabyte."""


class GatewayPacketizer(Packetizer):
    """Paramiko's packetizer with a fast path for AES-GCM.

    ``sink`` gets the channels' data, and ``adjust`` their window adjusts, on the reading thread.
    """

    REKEY_BYTES = REKEY_BYTES

    def __init__(self, sock: BufferedSocket, sink: Sink, adjust: Adjust) -> None:
        super().__init__(sock)  # type: ignore[arg-type]
        self._sock = sock
        self._sink = sink
        self._adjust = adjust
        self._in: Direction | None = None
        self._out: Direction | None = None
        self._asked_at = 0
        self._opened: deque[bytes | Data] = deque()
        self._greeting = 0

    def _read_timeout(self, timeout: float) -> bytes:
        """Return more of the client's identification line, which paramiko keeps however long it gets."""
        data: bytes = super()._read_timeout(timeout)  # type: ignore[misc]
        self._greeting += len(data)
        if self._greeting > IDENTIFICATION_SIZE:
            raise paramiko.SSHException(f"the client's identification has more than {IDENTIFICATION_SIZE} bytes")
        return data

    def set_inbound_cipher(self, *arguments: Any, **how: Any) -> None:
        """Take the new keys of a key exchange."""
        super().set_inbound_cipher(*arguments, **how)
        self._in = Direction(how["block_engine"], how["iv_in"]) if how["aead"] else None

    def set_outbound_cipher(self, *arguments: Any, **how: Any) -> None:
        """Take the new keys of a key exchange."""
        super().set_outbound_cipher(*arguments, **how)
        self._out = Direction(how["block_engine"], how["iv_out"]) if how["aead"] else None

    # Inbound: one thread.

    def read_message(self) -> tuple[int, Message]:
        """Return the next message that is not data for the sink.

        Raises NeedRekeyException to start a key exchange, EOFError, and SSHException for a broken packet.
        """
        opened = self._opened
        while (direction := self._in) is not None:
            if not opened:
                self._receive(direction)
            packet = opened.popleft()
            if isinstance(packet, tuple):
                channel, data, packets = packet
                taken = self._sink(channel, data)
                number = self._count_in(packets)  # not before: the program need not wait for it
                if not taken:
                    return _message(common.MSG_CHANNEL_DATA, _DATA.pack(channel, len(data)) + data, number)
            elif packet[1] != common.MSG_CHANNEL_WINDOW_ADJUST or not self._adjusted(packet):
                if packet[1] == common.MSG_CHANNEL_REQUEST and packet[_REQUEST_KIND:_RESIZE_END] == _RESIZE:
                    packet = self._newest(packet)
                return _message(packet[1], packet[2 : len(packet) - packet[0]], self._count_in(1))
            if self._Packetizer__need_rekey:  # type: ignore[attr-defined] # which need_rekey() returns
                raise NeedRekeyException()
        return super().read_message()

    def _adjusted(self, packet: bytes) -> bool:
        """Act on a window adjust (RFC 4254 §5.2); return False to have paramiko do it."""
        if len(packet) - packet[0] != _ADJUST_SIZE or not self._adjust(*_DATA.unpack_from(packet, 2)):
            return False
        self._count_in(1)
        return True

    def _newest(self, packet: bytes) -> bytes:
        """Return the last of one channel's window-changes that have arrived in a row, starting with this one.

        A client that sends nothing else would keep its own keys waiting for seconds.
        """
        head, opened = packet[1:_RESIZE_END], self._opened
        while opened and isinstance(following := opened[0], bytes) and following[1:_RESIZE_END] == head:
            packet = following
            opened.popleft()
            self._count_in(1)
        return packet

    def _receive(self, direction: Direction) -> None:
        """Open the packets that have come, at least one."""
        sock, opened = self._sock, self._opened
        while True:
            if sock.start < sock.end:
                sock.start = direction.open(sock.storage, sock.start, sock.end, opened)
                if opened:
                    break
            try:
                if not sock.fill():
                    raise EOFError
            except TimeoutError:
                # Nothing of a packet has come: a moment to change keys, or to show that we are alive.
                self._idle(waiting=sock.start == sock.end)
            except OSError:
                if self.closed:
                    raise EOFError from None
                raise
        if direction.bytes >= self.REKEY_BYTES:
            self._watch_volume(direction)

    def _idle(self, *, waiting: bool) -> None:
        if self.closed or self.handshake_timed_out():
            raise EOFError
        if waiting and self.need_rekey():
            raise NeedRekeyException()
        self._check_keepalive()  # type: ignore[attr-defined]

    def _watch_volume(self, direction: Direction) -> None:
        """Start a change of keys that have served for :attr:`REKEY_BYTES`, or see that it gets done."""
        if not self.need_rekey():
            self._asked_at = direction.bytes
            self._trigger_rekey()  # type: ignore[attr-defined]
        elif direction is self._in and direction.bytes - self._asked_at > self.REKEY_BYTES_OVERFLOW_MAX:
            raise paramiko.SSHException("the client does not take part in changing keys")

    def _count_in(self, packets: int) -> int:
        """Count packets in paramiko's sequence number; return the first one's."""
        number: int = self._Packetizer__sequence_number_in  # type: ignore[has-type]
        following = number + packets
        if following > LAST_NUMBER:
            self._check_rollover()
        self._Packetizer__sequence_number_in = following & LAST_NUMBER
        return number

    def _check_rollover(self) -> None:
        """Raise SSHException when a sequence number begins again too early."""
        if not self._initial_kex_done:  # type: ignore[attr-defined]
            raise paramiko.SSHException("the sequence number rolled over during the first key exchange")

    # Outbound: any thread, one at a time.

    def send_message(self, data: Any) -> None:
        """Send one message; raises EOFError when the connection is gone."""
        with self._Packetizer__write_lock:  # type: ignore[attr-defined]
            if self._out is None:
                super().send_message(data)
            else:
                packet = self._out.seal_message(data.asbytes())
                self._send(self._out, packet, 1)

    def send_room(self, room: Room, start: int, stop: int, channel: int, data_type: int) -> None:
        """Send a room's data from ``start`` to ``stop`` as messages for the client's ``channel``.

        ``data_type`` is that of extended data (RFC 4254 §5.2), 0 for plain data. Raises EOFError when the connection is
        gone.
        """
        with self._Packetizer__write_lock:  # type: ignore[attr-defined]
            while start < stop:
                if (direction := self._out) is not None:
                    sealed, packets, start = direction.seal_in(room, start, stop, channel, data_type)
                    self._send(direction, sealed, packets)
                else:
                    piece = room.piece(start, stop)
                    super().send_message(Packet(data_head(channel, data_type, len(piece)) + piece))  # type: ignore[arg-type]
                    start += len(piece)

    def _send(self, direction: Direction, sealed: bytes | memoryview, packets: int) -> None:
        """Count and send packets, ideally with one system call."""
        number: int = self._Packetizer__sequence_number_out + packets  # type: ignore[has-type]
        if number > LAST_NUMBER:
            self._check_rollover()
        self._Packetizer__sequence_number_out = number & LAST_NUMBER
        try:
            sent = self._sock.send(sealed)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise EOFError from error
        if sent < len(sealed):
            self.write_all(memoryview(sealed)[sent:])
        if direction.bytes >= self.REKEY_BYTES:
            self._watch_volume(direction)


def _message(kind: int, content: bytes, number: int) -> tuple[int, Message]:
    message = Message(content)
    message.seqno = number
    return kind, message


class Packet:
    """A message that is already complete; paramiko's ``Message`` would copy it twice."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def asbytes(self) -> bytes:
        """Return the message."""
        return self._content
