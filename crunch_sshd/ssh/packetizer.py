"""SSH's binary packets (RFC 4253 §6) under AES-GCM (RFC 5647), with few copies and few system calls.

Owns the cost of a packet; that of its bytes is ``aes_gcm.py``'s. Paramiko's packetizer does the first key exchange and
every cipher other than AES-GCM; its private counters are kept right, so that a later key exchange may switch to any
other cipher. Opens these private doors of paramiko 5.1: the packetizer's sequence numbers, its wish for new keys,
``_trigger_rekey`` and ``_read_timeout``. Knows nothing of channels except messages with data and window adjusts (RFC
4254 §5.2), and that only the newest window-change (§6.7) counts.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

import paramiko
from paramiko import common
from paramiko.message import Message
from paramiko.packet import NeedRekeyException, Packetizer

from crunch_sshd.ssh.aes_gcm import BATCH, BLOCK, LEAST_PADDING, Data, Direction
from crunch_sshd.ssh.buffered_socket import BufferedSocket
from crunch_sshd.ssh.limits import IDENTIFICATION_SIZE
from crunch_sshd.ssh.memory import Room

REKEY_BYTES = 1 << 35
"""Bytes in one direction after which keys are changed. RFC 4344 §3.2 allows 2^32 blocks of 16 bytes, twice as much."""
PADDING_POOL = 4096
"""Random bytes drawn at a time; each packet's padding is a piece of them (RFC 4253 §6 asks for random bytes)."""

_LENGTH = Struct(">I")
_DATA = Struct(">II")
_ADJUST_SIZE = 1 + 1 + _DATA.size
"""Bytes of a decrypted packet with a window adjust, without its padding: a channel, and the bytes."""
_REQUEST_KIND = 1 + 1 + 4
"""Where a channel request's kind begins in a decrypted packet, with its length: after the type and the channel."""
_RESIZE = _LENGTH.pack(len("window-change")) + b"window-change" + b"\0"
"""The kind of a window-change that wants no reply (RFC 4254 §6.7)."""
_RESIZE_END = _REQUEST_KIND + len(_RESIZE)

_SEQUENCE_OUT = "_Packetizer__sequence_number_out"

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
        self._padding = b""
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
        """Start a change of keys once they have served for :attr:`REKEY_BYTES`."""
        if direction.bytes < self.REKEY_BYTES:
            return
        if not self.need_rekey():
            self._asked_at = direction.bytes
            self._trigger_rekey()  # type: ignore[attr-defined]
        elif direction is self._in and direction.bytes - self._asked_at > self.REKEY_BYTES_OVERFLOW_MAX:
            raise paramiko.SSHException("the client does not take part in changing keys")

    def _count_in(self, packets: int) -> int:
        """Count packets in paramiko's sequence number; return the first one's."""
        number: int = self._Packetizer__sequence_number_in  # type: ignore[has-type]
        self._Packetizer__sequence_number_in = number + packets & 0xFFFFFFFF
        if self._Packetizer__sequence_number_in < number:
            self._rolled_over()
        return number

    def _rolled_over(self) -> None:
        if not self._initial_kex_done:  # type: ignore[attr-defined]
            raise paramiko.SSHException("the sequence number rolled over during the first key exchange")

    def _next_number(self, name: str, packets: int = 1) -> int:
        """Count packets in one of paramiko's sequence numbers; return the first one's."""
        number: int = getattr(self, name)
        following = number + packets & 0xFFFFFFFF
        if following < number and not self._initial_kex_done:  # type: ignore[attr-defined]
            raise paramiko.SSHException("the sequence number rolled over during the first key exchange")
        setattr(self, name, following)
        return number

    # Outbound: any thread, one at a time.

    def send_message(self, data: Any) -> None:
        """Send one message; raises EOFError when the connection is gone."""
        with self._Packetizer__write_lock:  # type: ignore[attr-defined]
            if self._out is None:
                super().send_message(data)
            else:
                self._send(self._seal(self._out, (data.asbytes(),)))

    def send_data(self, head: bytes, data: memoryview, packet_size: int) -> None:
        """Send ``data`` in messages that begin with ``head`` and carry up to ``packet_size`` bytes of it."""
        with self._Packetizer__write_lock:  # type: ignore[attr-defined]
            pieces: list[bytes] = []
            for start in range(0, len(data), packet_size):
                piece = data[start : start + packet_size]
                content = (head, _LENGTH.pack(len(piece)), piece)
                if self._out is None:
                    super().send_message(Packet(b"".join(content)))  # type: ignore[arg-type]
                    continue
                pieces += self._seal(self._out, content)
                if len(pieces) >= 2 * BATCH:
                    self._send(pieces)
                    pieces = []
            if pieces:
                self._send(pieces)

    def send_room(self, head: bytes, room: Room, start: int, stop: int, packet_size: int) -> None:
        """Send a room's data from ``start`` to ``stop`` as :meth:`send_data` does, without copying it."""
        with self._Packetizer__write_lock:  # type: ignore[attr-defined]
            while start < stop and (direction := self._out) is not None:
                sealed, packets, start = direction.seal_in(room, start, stop, head, packet_size)
                self._next_number(_SEQUENCE_OUT, packets)
                self._send([sealed])
                self._watch_volume(direction)
            if start < stop:
                self.send_data(head, room.data[start:stop], packet_size)

    def _seal(self, direction: Direction, content: tuple[bytes | memoryview, ...]) -> list[bytes]:
        """Return a message as an encrypted packet, in two pieces."""
        size = 1 + sum(map(len, content))
        padding = LEAST_PADDING + -(size + LEAST_PADDING) % BLOCK
        if len(self._padding) < padding:
            self._padding = os.urandom(PADDING_POOL)
        random, self._padding = self._padding[:padding], self._padding[padding:]
        self._next_number(_SEQUENCE_OUT)
        length, padding_length = _LENGTH.pack(size + padding), padding.to_bytes(1, "big")
        sealed = direction.seal(length, b"".join((padding_length, *content, random)))
        self._watch_volume(direction)
        return [length, sealed]

    def _send(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Send all pieces, ideally in one system call."""
        try:
            sent = self._sock.sendmsg(pieces)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise EOFError from error
        if sent < sum(map(len, pieces)):
            rest = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self.write_all(memoryview(rest)[sent:])


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
