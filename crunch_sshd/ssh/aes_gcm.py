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
from paramiko.common import MSG_CHANNEL_DATA, MSG_NEWKEYS
from paramiko.ssh_exception import SSHException

from crunch_sshd.ssh.memory import Room, untouched

MAX_PACKET = 256 * 1024
"""Bytes in the longest packet accepted, as in OpenSSH; RFC 4253 §6.1 demands 35,000."""
OPENED = 3 * MAX_PACKET
"""Bytes of packets opened at a time: all that one read from the socket (``buffered_socket.py``) can complete."""
AT_ONCE = 256
"""Messages opened at a time: tiny ones take ten times their own size until they have been worked on."""
BATCH = 16
"""Packets sealed before they are sent together, with one system call: twice as many take a tenth less processor time,
but others wait that much longer for their turn."""
TAG = 16
BLOCK = 16
LEAST_PADDING = 4
MOST_PADDING = LEAST_PADDING + BLOCK - 1
OVERHEAD = 64
"""Bytes that a packet has at most beside its data; a margin of :class:`Room` has as many."""
COUNTER_MASK = (1 << 64) - 1

_LENGTH = Struct(">I")
_DATA_HEAD = Struct(">BBII")
"""The beginning of a packet with a data message: the padding's length, the type, the channel, the data's length."""


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
        self._buffer = memoryview(b"")
        self.bytes = 0

    def seal(self, length: bytes, plain: bytes) -> bytes:
        """Return the next packet's sealed part; ``length`` stays readable, and is sealed too."""
        counter = self._counter
        self._counter = counter + 1 & COUNTER_MASK
        sealed: bytes = self._engine.encrypt(self._fixed + counter.to_bytes(8, "big"), plain, length)
        self.bytes += len(length) + len(sealed)
        return sealed

    def seal_in(self, room: Room, start: int, stop: int, head: bytes, most: int) -> tuple[memoryview, int, int]:
        """Seal the data in ``room`` from ``start`` on, until ``stop`` or for BATCH packets of up to ``most`` bytes.

        Return the packets, valid until the next call, their number, and where to go on. For the cipher a packet must be
        one piece, so that its beginning, ``head`` and the data's length, is written over data already sealed, and its
        padding for a moment over data still to be.
        """
        whole, sealed = room.whole, self._room(BATCH * (most + OVERHEAD))
        at, end = room.MARGIN + start, room.MARGIN + stop
        encrypt, fixed, counter = self._engine.encrypt_into, self._fixed, self._counter
        random = memoryview(os.urandom(BATCH * MOST_PADDING))
        number = size = out = 0
        while at < end and number < BATCH:
            if size != min(most, end - at):
                size = min(most, end - at)
                padding = LEAST_PADDING + -(1 + len(head) + _LENGTH.size + size + LEAST_PADDING) % BLOCK
                before = padding.to_bytes(1, "big") + head + _LENGTH.pack(size)
                length = _LENGTH.pack(len(before) + size + padding)
                sealed_size = len(before) + size + padding + TAG
            behind = at + size
            tail = behind + padding
            kept = bytes(whole[behind:tail])
            whole[at - len(before) : at], whole[behind:tail], random = before, random[:padding], random[padding:]
            body = out + _LENGTH.size
            sealed[out:body], out = length, body + sealed_size
            encrypt(fixed + counter.to_bytes(8, "big"), whole[at - len(before) : tail], length, sealed[body:out])
            whole[behind:tail], at = kept, behind
            counter = counter + 1 & COUNTER_MASK
            number += 1
        self._counter = counter
        self.bytes += out
        return sealed[:out], number, at - room.MARGIN

    def open(self, arrived: memoryview, start: int, end: int, opened: deque[bytes | Data]) -> int:
        """Append the packets that are complete in ``arrived`` from ``start`` to ``end``; return where to go on.

        A packet is from its padding length on; those with data are :data:`Data`. Each is opened over the end of the
        data before it, which is then put back, and its own data lies just behind.

        Stops at a change of keys, because the packets behind it use other keys. One loop, since each packet passes
        here: calls take most of the time that Python spends on a packet. Raises SSHException.
        """
        plain = self._buffer or self._room(OPENED)
        decrypt, fixed, counter = self._decrypt, self._fixed, self._counter
        begun, last, room = start, end - _LENGTH.size, AT_ONCE
        first = at = _DATA_HEAD.size
        gathered = channel = 0
        while start <= last and room:
            body = start + _LENGTH.size
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

    def _room(self, size: int) -> memoryview:
        """Return this direction's one buffer, of at least ``size`` bytes."""
        if len(self._buffer) < size:
            self._buffer = untouched(size)
        return self._buffer
