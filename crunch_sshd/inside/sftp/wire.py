"""The SFTP protocol, version 3, as bytes (draft-ietf-secsh-filexfer-02): packets, their fields, and answers. Pure.

Owns the two buffers of a session, so both are bounded: requests are taken out of one in place, answers are built in the
other in place, and data passes through neither of them twice.

A small file is four requests, and a client waits for each of them, while other processes empty the processor's caches:
what counts is how many functions a request goes through. So what every request needs has few.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

VERSION = 3
MAX_PACKET = 256 * 1024
"""Bytes of the longest packet, without its length (OpenSSH's SFTP_MAX_MSG_LENGTH)."""
MAX_DATA = MAX_PACKET - 1024
"""Bytes of data in one READ or WRITE that ``limits@openssh.com`` promises, as OpenSSH."""
BUFFER = 512 * 1024
"""Bytes of each buffer: two of the longest packets, so that one is read while the other is being written."""
LARGEST_ANSWER = MAX_PACKET + 4

INIT, VERSION_ANSWER = 1, 2
OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT, OPENDIR, READDIR = range(3, 13)
REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK = range(13, 21)
EXTENDED = 200
STATUS, HANDLE, DATA, NAME, ATTRS = range(101, 106)
EXTENDED_REPLY = 201

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = range(6)
OP_UNSUPPORTED = 8

CONTENT = 5
"""Where in a packet its own fields begin: after its kind and the request's id."""
HANDLE_SIZE = 8
"""Bytes of a handle of ours with its length, as it stands in packets."""
ALL_ATTRIBUTES = 1 | 2 | 4 | 8
"""The flags of size, owner, permissions and times: what is known of every file."""
TIME_MASK = 0xFFFFFFFF
ENDS_TOO_EARLY, TOO_LONG = "a packet ends too early", "a string is longer than its packet"
_LENGTH, _LONG = 4, 8
"""Bytes of a packet's or a string's length, and of a uint64."""
_LEAST = _LENGTH + CONTENT
"""Bytes of the shortest packet, with its length."""

_u32, _u64 = Struct(">I").unpack_from, Struct(">Q").unpack_from
_begin, _place = Struct(">IBI").unpack_from, Struct(">QI").unpack_from
_two = Struct(">II").pack


class Malformed(Exception):
    """The client broke the protocol; the session ends, since nothing after this can be understood."""


number: Callable[[int], bytes] = Struct(">I").pack
"""Return a uint32."""
long_number: Callable[[int], bytes] = Struct(">Q").pack
"""Return a uint64."""


def text(value: bytes) -> bytes:
    """Return ``value`` as an SSH string (RFC 4251 §5)."""
    return number(len(value)) + value


def status(code: int, sentence: str) -> bytes:
    """Return the content of a STATUS: ``code``, ``sentence``, and no language."""
    words = sentence.encode()
    return b"".join((_two(code, len(words)), words, bytes(_LENGTH)))


SUCCESS, END_OF_FILE = status(OK, "Success"), status(EOF, "End of file")

# The forms of answers; all but _ANY are packed whole, in one call.
_ANY, _DATA = Struct(">IBI"), Struct(">IBII")
_DONE, _HANDLE, _ATTRIBUTES = Struct(f">IBI{len(SUCCESS)}s"), Struct(f">IBI{HANDLE_SIZE}s"), Struct(">IBIIQIIIII")
_pack_any, _ANY_SIZE = _ANY.pack_into, _ANY.size
_pack_data, _DATA_SIZE = _DATA.pack_into, _DATA.size
_pack_done, _DONE_SIZE = _DONE.pack_into, _DONE.size
_pack_handle, _HANDLE_SIZE = _HANDLE.pack_into, _HANDLE.size
_pack_attributes, _ATTRIBUTES_SIZE = _ATTRIBUTES.pack_into, _ATTRIBUTES.size


def string(packet: memoryview, at: int = CONTENT) -> tuple[bytes, int]:
    """Return the string at ``at``, and where the next field begins; raises :class:`Malformed`."""
    start = at + _LENGTH
    try:
        end = start + _u32(packet, at)[0]
    except StructError:
        raise Malformed(ENDS_TOO_EARLY) from None
    if end > len(packet):
        raise Malformed(TOO_LONG)
    return bytes(packet[start:end]), end


def u32(packet: memoryview, at: int) -> int:
    """Return the uint32 at ``at``; raises :class:`Malformed`."""
    try:
        value: int = _u32(packet, at)[0]
    except StructError:
        raise Malformed(ENDS_TOO_EARLY) from None
    return value


def place(packet: memoryview) -> tuple[int, int]:
    """Return the offset and the size that READ and WRITE have after a handle of ours; raises :class:`Malformed`."""
    try:
        found: tuple[int, int] = _place(packet, CONTENT + HANDLE_SIZE)
    except StructError:
        raise Malformed(ENDS_TOO_EARLY) from None
    return found


class Fields:
    """Reads the fields of a packet from ``at`` on; each method raises :class:`Malformed` if the packet ends too early.

    For requests that are not frequent: those above cost less.
    """

    def __init__(self, packet: memoryview, at: int = 0) -> None:
        self.packet = packet
        self.at = at
        """Where the next field begins."""

    def byte(self) -> int:
        """Return a byte."""
        if self.empty:
            raise Malformed(ENDS_TOO_EARLY)
        self.at += 1
        return self.packet[self.at - 1]

    def u32(self) -> int:
        """Return a uint32."""
        value = u32(self.packet, self.at)
        self.at += _LENGTH
        return value

    def u64(self) -> int:
        """Return a uint64."""
        try:
            value: int = _u64(self.packet, self.at)[0]
        except StructError:
            raise Malformed(ENDS_TOO_EARLY) from None
        self.at += _LONG
        return value

    def view(self) -> memoryview:
        """Return a string in place, valid until the next packet is asked for."""
        size = self.u32()
        start = self.at
        if size > len(self.packet) - start:
            raise Malformed(TOO_LONG)
        self.at = start + size
        return self.packet[start : self.at]

    def string(self) -> bytes:
        """Return a string."""
        value, self.at = string(self.packet, self.at)
        return value

    @property
    def empty(self) -> bool:
        """Say whether all fields have been read."""
        return self.at == len(self.packet)


class Packets:
    """The requests in what has been received: read into :attr:`space`, and say how much to :meth:`received`."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(BUFFER))
        self._start = 0
        self._end = 0
        self._all = [self._buffer]
        self.space = self._all
        """Where to read into (readv(2)): one buffer, with room for the rest of any packet that has begun."""

    def received(self, size: int) -> Iterator[tuple[int, int, memoryview]]:
        """Yield the kind, the id and the whole of each packet that ``size`` more bytes in :attr:`space` complete.

        The whole is without its length, and valid until the next. INIT has the client's version in place of an id. All
        must be asked for. Raises :class:`Malformed` for an impossible one.
        """
        buffer, start, end = self._buffer, self._start, self._end + size
        while end - start >= _LEAST:
            length, kind, request_id = _begin(buffer, start)
            if not CONTENT <= length <= MAX_PACKET:
                raise _impossible(length)
            after = start + _LENGTH + length
            if after > end:
                break
            yield kind, request_id, buffer[start + _LENGTH : after]
            start = after
        if start == end:
            self._start = self._end = 0
            self.space = self._all
        else:
            self._keep(start, end)

    def _keep(self, start: int, end: int) -> None:
        """Keep the beginning of a packet, from ``start`` to ``end``, and have room for its rest."""
        buffer = self._buffer
        if end - start >= _LENGTH and not CONTENT <= (length := _u32(buffer, start)[0]) <= MAX_PACKET:
            raise _impossible(length)
        if BUFFER - start < LARGEST_ANSWER:
            buffer[: end - start] = buffer[start:end]
            start, end = 0, end - start
        self._start, self._end = start, end
        self.space = [buffer[end:]]


def _impossible(length: int) -> Malformed:
    if 0 < length < CONTENT:
        return Malformed(ENDS_TOO_EARLY)
    return Malformed(f"a packet of {length} bytes was announced; the limits are 1 and {MAX_PACKET}")


class Answers:
    """The answers that wait to be sent. The caller sends what :meth:`take` returns once FULL, and when idle."""

    FULL = BUFFER - LARGEST_ANSWER
    """With more waiting, the largest answer may have no room."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(BUFFER))
        self.size = 0
        """Bytes that wait."""

    def take(self) -> memoryview:
        """Return the bytes to send, which wait no longer; they are valid until the next answer."""
        taken = self._buffer[: self.size]
        self.size = 0
        return taken

    def done(self, request_id: int) -> None:
        """Answer that the request succeeded."""
        start = self.size
        _pack_done(self._buffer, start, _DONE_SIZE - _LENGTH, STATUS, request_id, SUCCESS)
        self.size = start + _DONE_SIZE

    def handle(self, request_id: int, handle: bytes) -> None:
        """Answer with a new handle, given with its length."""
        start = self.size
        _pack_handle(self._buffer, start, _HANDLE_SIZE - _LENGTH, HANDLE, request_id, handle)
        self.size = start + _HANDLE_SIZE

    def attributes(self, request_id: int, facts: Any) -> None:
        """Answer with a file's attributes; ``facts`` is its stat_result, as the tuple with times in whole seconds."""
        mode, _, _, _, uid, gid, size, accessed, changed, _ = facts
        start = self.size
        _pack_attributes(
            self._buffer, start, _ATTRIBUTES_SIZE - _LENGTH, ATTRS, request_id, ALL_ATTRIBUTES, size, uid, gid,
            mode, accessed & TIME_MASK, changed & TIME_MASK,
        )  # fmt: skip
        self.size = start + _ATTRIBUTES_SIZE

    def add(self, kind: int, request_id: int, content: bytes) -> None:
        """Answer with a packet of any kind and content."""
        size = len(content)
        if size > MAX_PACKET - CONTENT:
            raise ValueError("the answer would be longer than a packet")
        start = self.size + _ANY_SIZE
        _pack_any(self._buffer, self.size, CONTENT + size, kind, request_id)
        self._buffer[start : start + size] = content
        self.size = start + size

    def version(self, extensions: Iterable[tuple[bytes, bytes]]) -> None:
        """Answer INIT. The version takes the place of other packets' request id."""
        self.add(VERSION_ANSWER, VERSION, b"".join(text(word) for pair in extensions for word in pair))

    def names(self, request_id: int, entries: list[bytes]) -> None:
        """Answer with entries made by :func:`entry`, which must fit a packet."""
        self.add(NAME, request_id, number(len(entries)) + b"".join(entries))

    def extended(self, request_id: int, content: bytes) -> None:
        """Answer an extension's request with the content that the extension defines."""
        self.add(EXTENDED_REPLY, request_id, content)

    def data_space(self, size: int) -> memoryview:
        """Return where to put up to ``size`` bytes of a file before :meth:`data`."""
        start = self.size + _DATA_SIZE
        return self._buffer[start : start + size]

    def data(self, request_id: int, size: int) -> None:
        """Answer READ with the first ``size`` bytes of :meth:`data_space`."""
        start = self.size
        _pack_data(self._buffer, start, _DATA_SIZE - _LENGTH + size, DATA, request_id, size)
        self.size = start + _DATA_SIZE + size


def entry(name: bytes, long_name: bytes, attributes: bytes) -> bytes:
    """Return one entry of a NAME answer."""
    return b"".join((number(len(name)), name, number(len(long_name)), long_name, attributes))
