"""yamux's frames: twelve bytes of header, followed in a data frame by the payload (spec.md, "Framing").

Pure. Knows the form of a frame and nothing of what it means for a stream.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag

VERSION = 0
HEADER_SIZE = 12
_HEADER = struct.Struct(">BBHII")

Bytes = bytes | bytearray | memoryview


class Type(IntEnum):
    """The type of a frame."""

    DATA = 0
    WINDOW_UPDATE = 1
    PING = 2
    GO_AWAY = 3


class Flag(IntFlag):
    """The flags of a frame."""

    SYN = 1
    ACK = 2
    FIN = 4
    RST = 8


class GoAway(IntEnum):
    """Why a session ends; the length field of a GO_AWAY frame."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


class LocalProtocolError(Exception):
    """This side asked for something that the protocol does not allow: a bug of ours."""


class RemoteProtocolError(Exception):
    """The peer broke the protocol; the session cannot go on."""


@dataclass(frozen=True)
class Header:
    """One frame's header. ``length``: number of bytes to follow, window granted, a ping's value or a GoAway code."""

    type: Type
    flags: int
    stream_id: int
    length: int

    def encode(self) -> bytes:
        """Return the twelve bytes."""
        return _HEADER.pack(VERSION, self.type, self.flags, self.stream_id, self.length)


def decode(data: Bytes) -> Header:
    """Read twelve bytes; raise :class:`RemoteProtocolError` unless they are a header of this version."""
    version, number, flags, stream_id, length = _HEADER.unpack(data)
    if version != VERSION:
        raise RemoteProtocolError(f"a frame has version {version}; this is not yamux, or a later one")
    try:
        kind = Type(number)
    except ValueError:
        raise RemoteProtocolError(f"a frame has the unknown type {number}") from None
    if flags & ~0xF:
        raise RemoteProtocolError(f"a frame has unknown flags ({flags:#06x})")
    if kind in (Type.PING, Type.GO_AWAY) and stream_id:
        raise RemoteProtocolError(f"a {kind.name} frame names stream {stream_id}; it belongs to the session")
    if kind in (Type.DATA, Type.WINDOW_UPDATE) and not stream_id:
        raise RemoteProtocolError(f"a {kind.name} frame names no stream")
    return Header(kind, flags, stream_id, length)


class FrameReader:
    """Bytes in, in whatever pieces; headers and pieces of payload out.

    A payload is not collected: its bytes are handed on as they come, so that a frame of any length costs no memory.
    """

    def __init__(self) -> None:
        self._head = bytearray()
        self._input: list[memoryview] = []
        self._left = 0

    @property
    def payload_left(self) -> int:
        """Bytes of the current frame's payload that :meth:`read` has not returned yet."""
        return self._left

    @property
    def inside_frame(self) -> bool:
        """Say whether the stream, if it ended now, would cut a frame."""
        return bool(self._head or self._left)

    def receive(self, data: Bytes) -> None:
        """Store what arrived. ``data`` must stay as it is until :meth:`read` has returned None."""
        if data:
            self._input.append(memoryview(data))

    def read(self) -> Header | memoryview | None:
        """Return the next header or piece of a payload; None when more bytes are needed."""
        while self._input:
            chunk = self._input[0]
            wanted = self._left or HEADER_SIZE - len(self._head)
            piece, rest = chunk[:wanted], chunk[wanted:]
            if rest:
                self._input[0] = rest
            else:
                del self._input[0]
            if self._left:
                self._left -= len(piece)
                return piece
            self._head += piece
            if len(self._head) == HEADER_SIZE:
                return self._end_of_header()
        return None

    def _end_of_header(self) -> Header:
        header = decode(self._head)
        self._head.clear()
        self._left = header.length if header.type is Type.DATA else 0
        return header

    def __iter__(self) -> Iterator[Header | memoryview]:
        """Yield until :meth:`read` has no more."""
        while (found := self.read()) is not None:
            yield found
