"""SSH's binary packets (RFC 4253 §6) under AES-GCM (RFC 5647), with few copies and few system calls.

Owns what a packet costs. Paramiko's packetizer does the first key exchange and every cipher that is not AES-GCM; its
private counters are kept right, so that a later key exchange may change to any other cipher. Opens these private doors
of paramiko 5.1: the packetizer's sequence numbers and ``_trigger_rekey``. Knows nothing of channels but the head of a
data message (RFC 4254 §5.2).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from struct import Struct
from typing import Any

import paramiko
from cryptography.exceptions import InvalidTag
from paramiko import common
from paramiko.message import Message
from paramiko.packet import NeedRekeyException, Packetizer

from crunch_sshd.buffered_socket import BufferedSocket

REKEY_BYTES = 1 << 35
"""Bytes in one direction after which keys are changed. RFC 4344 §3.2 allows 2^32 blocks of 16 bytes, twice as much."""
MAX_PACKET = 256 * 1024
"""Bytes of the longest packet that is taken, as OpenSSH; RFC 4253 §6.1 demands 35,000."""
TAG = 16
BLOCK = 16
LEAST_PADDING = 4
PADDING_POOL = 4096
"""Random bytes drawn at a time; each packet's padding is a piece of them (RFC 4253 §6 asks for random ones)."""
BATCH = 8
"""Packets that are sealed before they are sent, all with one system call; more would only wait."""

_LENGTH = Struct(">I")
_HEAD = Struct(">IB")
_DATA = Struct(">II")
_DATA_START = 1 + 1 + _DATA.size
"""Where a data message's bytes begin in a decrypted packet: after padding length, type, channel, and their length."""

_SEQUENCE_IN, _SEQUENCE_OUT = "_Packetizer__sequence_number_in", "_Packetizer__sequence_number_out"

Sink = Callable[[int, memoryview], bool]
"""Takes a channel's number and its data; False when it wants the message in paramiko's way instead."""


class _Direction:
    """One direction's AES-GCM: its engine, the invocation counter in the nonce (RFC 5647 §7.1), and what passed."""

    def __init__(self, engine: Any, iv: bytes) -> None:
        self.engine = engine
        self._fixed = iv[:4]
        self._counter = int.from_bytes(iv[4:], "big")
        self.bytes = 0

    def nonce(self) -> bytes:
        """Return the next packet's nonce."""
        counter = self._counter
        self._counter = (counter + 1) & 0xFFFFFFFFFFFFFFFF
        return self._fixed + counter.to_bytes(8, "big")


class GatewayPacketizer(Packetizer):
    """Paramiko's packetizer with a fast way for AES-GCM. ``sink`` gets the data of channels on the reading thread."""

    REKEY_BYTES = REKEY_BYTES

    def __init__(self, sock: BufferedSocket, sink: Sink) -> None:
        super().__init__(sock)  # type: ignore[arg-type]
        self._sock = sock
        self._sink = sink
        self._in: _Direction | None = None
        self._out: _Direction | None = None
        self._padding = b""
        self._asked_at = 0
        self._held: tuple[int, bytes] | None = None

    def set_inbound_cipher(self, *arguments: Any, **how: Any) -> None:
        """Take the new keys of a key exchange."""
        super().set_inbound_cipher(*arguments, **how)
        self._in = _Direction(how["block_engine"], how["iv_in"]) if how["aead"] else None

    def set_outbound_cipher(self, *arguments: Any, **how: Any) -> None:
        """Take the new keys of a key exchange."""
        super().set_outbound_cipher(*arguments, **how)
        self._out = _Direction(how["block_engine"], how["iv_out"]) if how["aead"] else None

    # Inbound: one thread.

    def read_message(self) -> tuple[int, Message]:
        """Return the next message that is not data for the sink.

        Raises NeedRekeyException to have a key exchange begun, EOFError, and SSHException for a broken packet.
        """
        while self._in is not None:
            number, packet = self._held or self._next_packet(self._in)
            self._held = None
            if packet[1] != common.MSG_CHANNEL_DATA:
                return _message(packet[1], packet[2 : len(packet) - packet[0]], number)
            channel, data = self._gather(self._in, packet)
            if not self._sink(channel, data):
                return _message(packet[1], _DATA.pack(channel, len(data)) + data, number)
            if self.need_rekey():
                raise NeedRekeyException()
        return super().read_message()

    def _gather(self, direction: _Direction, packet: bytes) -> tuple[int, memoryview]:
        """Return a data message's channel and data, with the data of those for it that have arrived right behind.

        A program that is given one large piece is woken once.
        """
        channel, first = _data(packet)
        pieces = [first]
        while self._is_buffered():
            self._held = number, packet = self._next_packet(direction)
            if packet[1] != common.MSG_CHANNEL_DATA:
                break
            following, data = _data(packet)
            if following != channel:
                break
            self._held = None
            pieces.append(data)
        return channel, first if len(pieces) == 1 else memoryview(b"".join(pieces))

    def _is_buffered(self) -> bool:
        """Say whether a whole packet can be opened without waiting."""
        sock = self._sock
        if sock.buffered < _LENGTH.size:
            return False
        (size,) = _LENGTH.unpack(sock.peek(_LENGTH.size))
        return bool(sock.buffered >= _LENGTH.size + size + TAG)

    def _next_packet(self, direction: _Direction) -> tuple[int, bytes]:
        """Return the next packet's sequence number, and the packet as :meth:`_open` does."""
        packet = self._open(direction)
        return self._next_number(_SEQUENCE_IN), packet

    def _open(self, direction: _Direction) -> bytes:
        """Return the next packet, decrypted, from its padding length on."""
        length = self._take(_LENGTH.size)
        (size,) = _LENGTH.unpack(length)
        if size > MAX_PACKET or size % BLOCK or size < BLOCK:
            raise paramiko.SSHException(f"the client announced a packet of {size} bytes")
        sealed = self._take(size + TAG)
        try:
            packet: bytes = direction.engine.decrypt(direction.nonce(), sealed, length)
        except InvalidTag as error:
            raise paramiko.SSHException("a packet is not as it was sent") from error
        if packet[0] < LEAST_PADDING or packet[0] > size - 2:
            raise paramiko.SSHException("a packet's padding is longer than the packet, or too short")
        self._count(direction, size + _LENGTH.size + TAG)
        return packet

    def _take(self, size: int) -> bytes | memoryview:
        """Return the next ``size`` bytes, valid until the next call."""
        sock = self._sock
        while sock.buffered < size:
            try:
                if not sock.fill(size):
                    raise EOFError
            except TimeoutError:
                # Nothing of a packet has come: a moment to change keys, or to show that we are alive.
                self._idle(waiting=size == _LENGTH.size and not sock.buffered)
            except OSError:
                if self.closed:
                    raise EOFError from None
                raise
        taken = sock.take(size)
        return bytes(taken) if size == _LENGTH.size else taken

    def _idle(self, *, waiting: bool) -> None:
        if self.closed or self.handshake_timed_out():
            raise EOFError
        if waiting and self.need_rekey():
            raise NeedRekeyException()
        self._check_keepalive()  # type: ignore[attr-defined]

    def _count(self, direction: _Direction, size: int) -> None:
        direction.bytes += size
        if direction.bytes < self.REKEY_BYTES:
            return
        if not self.need_rekey():
            self._asked_at = direction.bytes
            self._trigger_rekey()  # type: ignore[attr-defined]
        elif direction is self._in and direction.bytes - self._asked_at > self.REKEY_BYTES_OVERFLOW_MAX:
            raise paramiko.SSHException("the client does not take part in changing keys")

    def _next_number(self, name: str) -> int:
        """Count a packet in one of paramiko's sequence numbers; return the packet's."""
        number: int = getattr(self, name)
        following = (number + 1) & 0xFFFFFFFF
        if not following and not self._initial_kex_done:  # type: ignore[attr-defined]
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
        """Send ``data`` in messages of up to ``packet_size`` bytes of it, which begin with ``head``."""
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

    def _seal(self, direction: _Direction, content: tuple[bytes | memoryview, ...]) -> list[bytes]:
        """Return a message as an encrypted packet, in two pieces."""
        size = 1 + sum(map(len, content))
        padding = LEAST_PADDING + -(size + LEAST_PADDING) % BLOCK
        if len(self._padding) < padding:
            self._padding = os.urandom(PADDING_POOL)
        random, self._padding = self._padding[:padding], self._padding[padding:]
        self._next_number(_SEQUENCE_OUT)
        length, padding_length = _LENGTH.pack(size + padding), padding.to_bytes(1, "big")
        plain = b"".join((padding_length, *content, random))
        sealed = direction.engine.encrypt(direction.nonce(), plain, length)
        self._count(direction, len(length) + len(sealed))
        return [length, sealed]

    def _send(self, pieces: list[bytes]) -> None:
        """Send all pieces, at best in one system call."""
        try:
            sent = self._sock.sendmsg(pieces)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise EOFError from error
        if sent < sum(map(len, pieces)):
            self.write_all(memoryview(b"".join(pieces))[sent:])


def _data(packet: bytes) -> tuple[int, memoryview]:
    """Return the channel and the data of a decrypted data message; raises SSHException when it is cut."""
    end = len(packet) - packet[0]
    channel, size = _DATA.unpack_from(packet, 2) if end >= _DATA_START else (0, end)
    if _DATA_START + size > end:
        raise paramiko.SSHException("a data message is shorter than it says")
    return channel, memoryview(packet)[_DATA_START : _DATA_START + size]


def _message(kind: int, content: bytes, number: int) -> tuple[int, Message]:
    message = Message(content)
    message.seqno = number
    return kind, message


class Packet:
    """A message that is complete already; paramiko's ``Message`` would copy it twice."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def asbytes(self) -> bytes:
        """Return the message."""
        return self._content
