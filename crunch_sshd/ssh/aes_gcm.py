"""One direction of AES-GCM in SSH (RFC 5647): packets sealed and opened where their data lies.

Owns the invocation counter, and what a packet costs by its bytes: only the cipher moves them. Of messages it knows the
head of one with data (RFC 4254 §5.2), so that the data of several in a row comes to lie in one piece. Knows nothing of
sockets and sequence numbers.
"""

from __future__ import annotations

import os
from collections import deque
from struct import Struct
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paramiko.common import MSG_CHANNEL_DATA, MSG_CHANNEL_EXTENDED_DATA, MSG_NEWKEYS
from paramiko.ssh_exception import SSHException

from arv_ssh.errors import ConfigError
from crunch_sshd.ssh.memory import Room, untouched

MAX_PACKET = 256 * 1024
"""Bytes in the longest packet accepted, as in OpenSSH; RFC 4253 §6.1 demands 35,000."""
OPENED = 3 * MAX_PACKET
"""Bytes of packets opened at a time: all that one read from the socket (``buffered_socket.py``) can complete."""
AT_ONCE = 256
"""Messages opened at a time: tiny ones take ten times their own size until they have been worked on."""
BATCH = 32
"""Packets read, sealed and sent at a time: 1 MB, as much as a program's pipe holds. Half as many take a tenth more
processor time. What waits for its turn waits longer for what is on its way already: stock ssh's window is 2 MB."""
TAG = 16
BLOCK = 16
LEAST_PADDING = 4
MOST_PADDING = LEAST_PADDING + BLOCK - 1
PADDING_POOL = 4096
"""Random bytes drawn at a time; each packet's padding is a piece of them."""
CANNOT_SEAL = (
    "the gateway cannot run with this version of the package cryptography, which encrypts no data in place; "
    "run: pip install 'cryptography==50.*'"
)
COUNTER_MASK = (1 << 64) - 1

_LENGTH = Struct(">I")
LENGTH_SIZE = _LENGTH.size
_DATA_HEAD = Struct(">BBII")
"""The beginning of a packet with a data message: the padding's length, the type, the channel, the data's length."""
_PLAIN_HEAD, _EXTENDED_HEAD = Struct(">IBBII"), Struct(">IBBIII")
"""The same with the packet's own length before it; of extended data, with its type before the data's length."""
GAP = LEAST_PADDING + -(_PLAIN_HEAD.size + LEAST_PADDING - LENGTH_SIZE) % BLOCK + TAG + _PLAIN_HEAD.size
"""Bytes between the data of two packets in a row, if it is plain and whole blocks. Enough for any other packet's parts
on one side of its data: the longest padding and the tag, or the longest beginning."""


def packet_room(most: int, packets: int = BATCH) -> Room:
    """Return a room for the data of ``packets`` packets with up to ``most`` bytes each, at least a block."""
    return Room(most - most % BLOCK, GAP, packets)


Data = tuple[int, memoryview, int]
"""The data of messages in a row for one channel: its number; the data, valid until more packets are opened; and the
number of packets that it came in. A plain tuple: one with names costs two more calls for each packet."""


class Direction:
    """One direction's keys: ``engine`` is an AESGCM, ``iv`` the first nonce, with its counter (RFC 5647 §7.1).

    ``bytes`` is how many have passed.
    """

    def __init__(self, engine: Any, iv: bytes) -> None:
        self._engine = engine
        self._decrypt = engine.decrypt_into
        self._fixed = iv[:4]
        self._counter = int.from_bytes(iv[4:], "big")
        self._plain = memoryview(b"")  # until something is opened: one direction never does
        self._random, self._drawn = b"", PADDING_POOL
        self.bytes = 0

    def seal(self, length: bytes, plain: bytes) -> bytes:
        """Return the next packet's sealed part; ``length`` stays readable, and is sealed too."""
        counter = self._counter
        self._counter = counter + 1 & COUNTER_MASK
        sealed: bytes = self._engine.encrypt(self._fixed + counter.to_bytes(8, "big"), plain, length)
        self.bytes += len(length) + len(sealed)
        return sealed

    def seal_message(self, message: bytes) -> bytes:
        """Return the next packet, with ``message``."""
        padding = LEAST_PADDING + -(1 + len(message) + LEAST_PADDING) % BLOCK
        length = _LENGTH.pack(1 + len(message) + padding)
        return length + self.seal(length, b"".join((padding.to_bytes(1, "big"), message, self.padding(padding))))

    def padding(self, size: int) -> bytes:
        """Return ``size`` random bytes, at most MOST_PADDING (RFC 4253 §6)."""
        if self._drawn > PADDING_POOL - MOST_PADDING:
            self._random, self._drawn = os.urandom(PADDING_POOL), 0
        start = self._drawn
        self._drawn = start + size
        return self._random[start : self._drawn]

    def seal_in(self, room: Room, start: int, stop: int, channel: int, data_type: int) -> tuple[memoryview, int, int]:
        """Seal the data in ``room`` from ``start`` to ``stop`` where it lies, as messages for the client's ``channel``.

        ``data_type`` is that of extended data, 0 for plain data. Return the packets, their number, and where to go on:
        they end early where the next would not lie directly behind. One loop, as in :meth:`open`.
        """
        head = _EXTENDED_HEAD if data_type else _PLAIN_HEAD
        fields = (MSG_CHANNEL_EXTENDED_DATA, channel, data_type) if data_type else (MSG_CHANNEL_DATA, channel)
        whole, area, gap, stride, before = room.whole, room.size, room.gap, room.stride, head.size
        encrypt, fixed, counter = self._engine.encrypt_into, self._fixed, self._counter
        first = begin = end = gap + start // area * stride + start % area - before
        packets = 0
        while start < stop and begin == end:
            size = area - start % area
            if size > stop - start:
                size = stop - start
            padding = LEAST_PADDING + -(before + size) % BLOCK  # four bytes at least, as the length that is not counted
            body, behind = begin + LENGTH_SIZE, begin + before + size
            tag = behind + padding
            end = tag + TAG
            head.pack_into(whole, begin, tag - body, padding, *fields, size)
            whole[behind:tag] = self.padding(padding)
            encrypt(fixed + counter.to_bytes(8, "big"), whole[body:tag], whole[begin:body], whole[body:end])
            counter = counter + 1 & COUNTER_MASK
            packets += 1
            start += size
            begin = gap + start // area * stride + start % area - before
        self._counter = counter
        self.bytes += end - first
        return whole[first:end], packets, start

    def open(self, arrived: memoryview, start: int, end: int, opened: deque[bytes | Data]) -> int:
        """Append the packets that are complete in ``arrived`` from ``start`` to ``end``; return where to go on.

        A packet is from its padding length on; those with data are :data:`Data`. Each is opened over the end of the
        data before it, which is then put back, and its own data lies just behind.

        Stops at a change of keys, because the packets behind it use other keys. One loop, since each packet passes
        here: calls take most of the time that Python spends on a packet. Raises SSHException.
        """
        plain = self._plain = self._plain or untouched(OPENED)
        decrypt, fixed, counter = self._decrypt, self._fixed, self._counter
        begun, last, room = start, end - LENGTH_SIZE, AT_ONCE
        first = at = _DATA_HEAD.size
        gathered = channel = 0
        while start <= last and room:
            body = start + LENGTH_SIZE
            (size,) = _LENGTH.unpack_from(arrived, start)
            if size > MAX_PACKET or size % BLOCK or size < BLOCK:
                raise SSHException(f"the client announced a packet of {size} bytes")
            stop = body + size + TAG
            begin = at - _DATA_HEAD.size
            behind = begin + size
            if stop > end or behind > OPENED:
                break
            if begin:
                kept = bytes(plain[begin:at])
            nonce, sealed, length = fixed + counter.to_bytes(8, "big"), arrived[body:stop], arrived[start:body]
            try:
                decrypt(nonce, sealed, length, plain[begin:behind])
            except InvalidTag as error:
                raise SSHException("a packet is not as it was sent") from error
            padding, kind, number, data_size = _DATA_HEAD.unpack_from(plain, begin)
            if padding < LEAST_PADDING or padding > size - 2:
                raise SSHException("a packet's padding is longer than the packet, or too short")
            counter = counter + 1 & COUNTER_MASK
            start = stop
            is_data = kind == MSG_CHANNEL_DATA
            if gathered and not (is_data and number == channel):
                opened.append((channel, plain[first:at], gathered))
                room -= 1
                gathered = 0
            if is_data:
                if at + data_size != behind - padding:
                    raise SSHException("a data message is not as long as it says")
                if not gathered:
                    first, channel = at, number
                gathered += 1
            else:
                opened.append(bytes(plain[begin:behind]))
                room -= 1
            if begin:
                plain[begin:at] = kept
            if is_data:
                at += data_size
            elif kind == MSG_NEWKEYS:
                break
        if gathered:
            opened.append((channel, plain[first:at], gathered))
        self._counter = counter
        self.bytes += start - begun
        return start


def data_head(channel: int, data_type: int, size: int) -> bytes:
    """Return what is before the ``size`` bytes of data in a message, ``data_type`` as for :meth:`Direction.seal_in`."""
    if data_type:
        return _EXTENDED_HEAD.pack(0, 0, MSG_CHANNEL_EXTENDED_DATA, channel, data_type, size)[LENGTH_SIZE + 1 :]
    return _PLAIN_HEAD.pack(0, 0, MSG_CHANNEL_DATA, channel, size)[LENGTH_SIZE + 1 :]


def check_in_place(engine: Any) -> None:
    """Raise :class:`ConfigError` unless ``engine`` encrypts data right where it lies, which nobody promises."""
    nonce, plain, memory = bytes(12), bytes(4000), memoryview(bytearray(4000 + TAG))
    try:
        engine.encrypt_into(nonce, memory[:-TAG], None, memory)
    except ValueError as error:
        raise ConfigError(f"{CANNOT_SEAL} ({error})") from error
    if memory != engine.encrypt(nonce, plain, None):
        raise ConfigError(CANNOT_SEAL)


check_in_place(AESGCM(bytes(16)))
