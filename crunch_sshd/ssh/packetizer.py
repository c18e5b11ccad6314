"""SSH's binary packets (RFC 4253 §6) under AES-GCM (RFC 5647), with few copies and few system calls.

Owns the cost of a packet. Paramiko's packetizer does the first key exchange and every cipher other than AES-GCM; its
private counters are kept right, so that a later key exchange may switch to any other cipher. Opens these private doors
of paramiko 5.1: the packetizer's sequence numbers, ``_trigger_rekey`` and ``_read_timeout``. Knows nothing of channels
except the head of a data message (RFC 4254 §5.2), and that only the newest window-change (§6.7) counts.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Any

import paramiko
from cryptography.exceptions import InvalidTag
from paramiko import common
from paramiko.message import Message
from paramiko.packet import NeedRekeyException, Packetizer

from crunch_sshd.ssh.buffered_socket import BufferedSocket
from crunch_sshd.ssh.limits import IDENTIFICATION_SIZE

REKEY_BYTES = 1 << 35
"""Bytes in one direction after which keys are changed. RFC 4344 §3.2 allows 2^32 blocks of 16 bytes, twice as much."""
MAX_PACKET = 256 * 1024
"""Bytes in the longest packet accepted, as in OpenSSH; RFC 4253 §6.1 demands 35,000."""
TAG = 16
BLOCK = 16
LEAST_PADDING = 4
COUNTER_MASK = (1 << 64) - 1
PADDING_POOL = 4096
"""Random bytes drawn at a time; each packet's padding is a piece of them (RFC 4253 §6 asks for random bytes)."""
BATCH = 8
"""Packets sealed before they are sent together, with one system call; more would only wait."""

_LENGTH = Struct(">I")
_DATA = Struct(">II")
_DATA_START = 1 + 1 + _DATA.size
"""Where a data message's bytes begin in a decrypted packet: after padding length, type, channel, and their length."""

_REQUEST_KIND = 1 + 1 + 4
"""Where a channel request's kind begins in a decrypted packet, with its length: after the type and the channel."""
_RESIZE = _LENGTH.pack(len("window-change")) + b"window-change" + b"\0"
"""The kind of a window-change that wants no reply (RFC 4254 §6.7)."""
_RESIZE_END = _REQUEST_KIND + len(_RESIZE)

_SEQUENCE_IN, _SEQUENCE_OUT = "_Packetizer__sequence_number_in", "_Packetizer__sequence_number_out"

Sink = Callable[[int, memoryview], bool]
"""Takes a channel's number and data; returns False to have paramiko handle the message instead."""


class _Direction:
    """One direction's AES-GCM: the engine, the nonce's invocation counter (RFC 5647 §7.1), and the bytes passed."""

    def __init__(self, engine: Any, iv: bytes) -> None:
        self._engine = engine
        self._fixed = iv[:4]
        self._counter = int.from_bytes(iv[4:], "big")
        self.bytes = 0

    def seal(self, length: bytes, plain: bytes) -> bytes:
        """Return the next packet's sealed part; ``length`` stays readable, and is sealed too."""
        counter = self._counter
        self._counter = counter + 1 & COUNTER_MASK
        sealed: bytes = self._engine.encrypt(self._fixed + counter.to_bytes(8, "big"), plain, length)
        self.bytes += len(length) + len(sealed)
        return sealed

    def open(self, arrived: memoryview) -> tuple[list[bytes], int]:
        """Return the packets that are complete in ``arrived``, from their padding length on, and the bytes they took.

        Stops at a change of keys, because the packets behind it use other keys. One loop, since each packet passes
        here: calls take most of the time that Python spends on a packet of 16 KB. Raises SSHException.
        """
        decrypt, fixed, counter = self._engine.decrypt, self._fixed, self._counter
        packets: list[bytes] = []
        start, end = 0, len(arrived)
        while end - start >= _LENGTH.size:
            body = start + _LENGTH.size
            stop = body + _sealed_size(arrived, start)
            if stop > end:
                break
            try:
                packet = decrypt(fixed + counter.to_bytes(8, "big"), arrived[body:stop], arrived[start:body])
            except InvalidTag as error:
                raise paramiko.SSHException("a packet is not as it was sent") from error
            if packet[0] < LEAST_PADDING or packet[0] > len(packet) - 2:
                raise paramiko.SSHException("a packet's padding is longer than the packet, or too short")
            counter = counter + 1 & COUNTER_MASK
            packets.append(packet)
            start = stop
            if packet[1] == common.MSG_NEWKEYS:
                break
        self._counter = counter
        self.bytes += start
        return packets, start


class GatewayPacketizer(Packetizer):
    """Paramiko's packetizer with a fast path for AES-GCM. ``sink`` gets the channels' data on the reading thread."""

    REKEY_BYTES = REKEY_BYTES

    def __init__(self, sock: BufferedSocket, sink: Sink) -> None:
        super().__init__(sock)  # type: ignore[arg-type]
        self._sock = sock
        self._sink = sink
        self._in: _Direction | None = None
        self._out: _Direction | None = None
        self._padding = b""
        self._asked_at = 0
        self._opened: deque[bytes] = deque()
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
        self._in = _Direction(how["block_engine"], how["iv_in"]) if how["aead"] else None

    def set_outbound_cipher(self, *arguments: Any, **how: Any) -> None:
        """Take the new keys of a key exchange."""
        super().set_outbound_cipher(*arguments, **how)
        self._out = _Direction(how["block_engine"], how["iv_out"]) if how["aead"] else None

    # Inbound: one thread.

    def read_message(self) -> tuple[int, Message]:
        """Return the next message that is not data for the sink.

        Raises NeedRekeyException to start a key exchange, EOFError, and SSHException for a broken packet.
        """
        while (direction := self._in) is not None:
            packet = self._next_packet(direction)
            if packet[1] == common.MSG_CHANNEL_REQUEST and packet[_REQUEST_KIND:_RESIZE_END] == _RESIZE:
                packet = self._newest(packet)
            if packet[1] != common.MSG_CHANNEL_DATA:
                return _message(packet[1], packet[2 : len(packet) - packet[0]], self._count_in(1))
            channel, data, number = self._gather(packet)
            if not self._sink(channel, data):
                return _message(packet[1], _DATA.pack(channel, len(data)) + data, number)
            if self.need_rekey():
                raise NeedRekeyException()
        return super().read_message()

    def _newest(self, packet: bytes) -> bytes:
        """Return the last of one channel's window-changes that have arrived in a row, starting with this one.

        A client that sends nothing else would keep its own keys waiting for seconds.
        """
        head, opened = packet[1:_RESIZE_END], self._opened
        while opened and opened[0][1:_RESIZE_END] == head:
            packet = opened.popleft()
            self._count_in(1)
        return packet

    def _gather(self, packet: bytes) -> tuple[int, memoryview, int]:
        """Return a data message's channel, its data and its sequence number.

        The data includes that of any messages for the same channel right behind it that have already arrived: a program
        given one large piece is woken once.
        """
        channel, first = _data(packet)
        pieces, opened = [first], self._opened
        while opened and opened[0][1] == common.MSG_CHANNEL_DATA:
            following, data = _data(opened[0])
            if following != channel:
                break
            pieces.append(data)
            opened.popleft()
        number = self._count_in(len(pieces))
        return channel, first if len(pieces) == 1 else memoryview(b"".join(pieces)), number

    def _next_packet(self, direction: _Direction) -> bytes:
        """Return the next packet, decrypted, from its padding length on."""
        if not self._opened:
            sock = self._sock
            self._wait_for(_LENGTH.size)
            self._wait_for(_LENGTH.size + _sealed_size(sock.peek(_LENGTH.size), 0))
            packets, size = direction.open(sock.peek(sock.buffered))
            sock.take(size)
            self._opened.extend(packets)
            self._watch_volume(direction)
        return self._opened.popleft()

    def _wait_for(self, size: int) -> None:
        """Return once ``size`` bytes have arrived."""
        sock = self._sock
        while sock.buffered < size:
            try:
                if not sock.fill(size):
                    raise EOFError
            except TimeoutError:
                # Nothing of a packet has come: a moment to change keys, or to show that we are alive.
                self._idle(waiting=not sock.buffered)
            except OSError:
                if self.closed:
                    raise EOFError from None
                raise

    def _idle(self, *, waiting: bool) -> None:
        if self.closed or self.handshake_timed_out():
            raise EOFError
        if waiting and self.need_rekey():
            raise NeedRekeyException()
        self._check_keepalive()  # type: ignore[attr-defined]

    def _watch_volume(self, direction: _Direction) -> None:
        """Start a change of keys once they have served for :attr:`REKEY_BYTES`."""
        if direction.bytes < self.REKEY_BYTES:
            return
        if not self.need_rekey():
            self._asked_at = direction.bytes
            self._trigger_rekey()  # type: ignore[attr-defined]
        elif direction is self._in and direction.bytes - self._asked_at > self.REKEY_BYTES_OVERFLOW_MAX:
            raise paramiko.SSHException("the client does not take part in changing keys")

    def _count_in(self, packets: int) -> int:
        return self._next_number(_SEQUENCE_IN, packets)

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

    def _seal(self, direction: _Direction, content: tuple[bytes | memoryview, ...]) -> list[bytes]:
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

    def _send(self, pieces: list[bytes]) -> None:
        """Send all pieces, ideally in one system call."""
        try:
            sent = self._sock.sendmsg(pieces)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise EOFError from error
        if sent < sum(map(len, pieces)):
            self.write_all(memoryview(b"".join(pieces))[sent:])


def _sealed_size(arrived: memoryview, start: int) -> int:
    """Return the bytes that follow the length at ``start``; raises SSHException for an impossible length."""
    size: int = _LENGTH.unpack_from(arrived, start)[0]
    if size > MAX_PACKET or size % BLOCK or size < BLOCK:
        raise paramiko.SSHException(f"the client announced a packet of {size} bytes")
    return size + TAG


def _data(packet: bytes) -> tuple[int, memoryview]:
    """Return the channel and the data of a decrypted data message; raises SSHException when it holds more or less.

    With more behind the data, the whole packet would stay in memory for as long as the data waits.
    """
    end = len(packet) - packet[0]
    channel, size = _DATA.unpack_from(packet, 2) if end >= _DATA_START else (0, end)
    if _DATA_START + size != end:
        raise paramiko.SSHException("a data message is not as long as it says")
    return channel, memoryview(packet)[_DATA_START : _DATA_START + size]


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
