"""The SFTP protocol, version 3, as bytes (draft-ietf-secsh-filexfer-02): packets, their fields, and answers. Pure.

Owns the two buffers of a session, so both are bounded: requests are taken out of one in place, answers are built in the
other in place, and data passes through neither of them twice.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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

_U32 = Struct(">I")
_U64 = Struct(">Q")
_size = _U32.pack
_HEAD = Struct(">IBI")
_DATA_HEAD = Struct(">IBII")
DATA_HEAD_SIZE = _DATA_HEAD.size


class Malformed(Exception):
    """The client broke the protocol; the session ends, since nothing after this can be understood."""


def text(value: bytes) -> bytes:
    """Return ``value`` as an SSH string (RFC 4251 §5)."""
    return _U32.pack(len(value)) + value


def number(value: int) -> bytes:
    """Return ``value`` as a uint32."""
    return _U32.pack(value)


def long_number(value: int) -> bytes:
    """Return ``value`` as a uint64."""
    return _U64.pack(value)


class Fields:
    """Reads the fields of one packet, in order; each method raises :class:`Malformed` if the packet ends too early."""

    def __init__(self, packet: memoryview) -> None:
        self._packet = packet
        self._at = 0

    def byte(self) -> int:
        """Return a byte."""
        if self._at >= len(self._packet):
            raise Malformed("a packet ends too early")
        self._at += 1
        return self._packet[self._at - 1]

    def u32(self) -> int:
        """Return a uint32."""
        return self._integer(_U32)

    def u64(self) -> int:
        """Return a uint64."""
        return self._integer(_U64)

    def _integer(self, form: Struct) -> int:
        try:
            value: int = form.unpack_from(self._packet, self._at)[0]
        except StructError:
            raise Malformed("a packet ends too early") from None
        self._at += form.size
        return value

    def view(self) -> memoryview:
        """Return a string in place, valid until the next packet is asked for."""
        size = self.u32()
        start = self._at
        if size > len(self._packet) - start:
            raise Malformed("a string is longer than its packet")
        self._at = start + size
        return self._packet[start : self._at]

    def string(self) -> bytes:
        """Return a string."""
        return bytes(self.view())

    @property
    def empty(self) -> bool:
        """Say whether all fields have been read."""
        return self._at == len(self._packet)


class Packets:
    """The requests in what has been received. Fill :meth:`space`, say how much to :meth:`received`, and iterate."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(BUFFER))
        self._start = 0
        self._end = 0

    def space(self) -> memoryview:
        """Return where to read into: room for the rest of any packet that has begun."""
        waiting = self._end - self._start
        if self._start and (not waiting or len(self._buffer) - self._start < LARGEST_ANSWER):
            self._buffer[:waiting] = self._buffer[self._start : self._end]
            self._start, self._end = 0, waiting
        return self._buffer[self._end :]

    def received(self, size: int) -> None:
        """Take note of ``size`` bytes in :meth:`space`."""
        self._end += size

    def __iter__(self) -> Iterator[memoryview]:
        """Yield each complete packet without its length; raises :class:`Malformed` for an impossible one."""
        while self._end - self._start >= _U32.size:
            size: int = _U32.unpack_from(self._buffer, self._start)[0]
            if not 0 < size <= MAX_PACKET:
                raise Malformed(f"a packet of {size} bytes was announced; the limits are 1 and {MAX_PACKET}")
            first = self._start + _U32.size
            if self._end - first < size:
                return
            self._start = first + size
            yield self._buffer[first : self._start]


class Answers:
    """The answers that wait to be sent. The caller sends :meth:`waiting` whenever :attr:`full`, and when idle."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(BUFFER))
        self._end = 0

    @property
    def full(self) -> bool:
        """Say whether there is no room for the largest answer."""
        return len(self._buffer) - self._end < LARGEST_ANSWER

    def waiting(self) -> memoryview:
        """Return the bytes to send, valid until :meth:`sent`."""
        return self._buffer[: self._end]

    def sent(self) -> None:
        """Forget the bytes that were waiting."""
        self._end = 0

    def _add(self, kind: int, request_id: int, content: bytes) -> None:
        if len(content) > MAX_PACKET - 5:
            raise ValueError("the answer would be longer than a packet")
        start = self._end + _HEAD.size
        end = start + len(content)
        _HEAD.pack_into(self._buffer, self._end, 5 + len(content), kind, request_id)
        self._buffer[start:end] = content
        self._end = end

    def version(self, extensions: Iterable[tuple[bytes, bytes]]) -> None:
        """Answer INIT. The version takes the place of other packets' request id."""
        self._add(VERSION_ANSWER, VERSION, b"".join(text(word) for pair in extensions for word in pair))

    def status(self, request_id: int, code: int, sentence: str) -> None:
        """Answer with a status and its text."""
        self._add(STATUS, request_id, number(code) + text(sentence.encode()) + text(b""))

    def handle(self, request_id: int, handle: bytes) -> None:
        """Answer with a new handle."""
        self._add(HANDLE, request_id, text(handle))

    def names(self, request_id: int, entries: list[bytes]) -> None:
        """Answer with entries made by :func:`entry`, which must fit a packet."""
        self._add(NAME, request_id, number(len(entries)) + b"".join(entries))

    def attributes(self, request_id: int, encoded: bytes) -> None:
        """Answer with a file's attributes."""
        self._add(ATTRS, request_id, encoded)

    def extended(self, request_id: int, content: bytes) -> None:
        """Answer an extension's request with the content that the extension defines."""
        self._add(EXTENDED_REPLY, request_id, content)

    def data_space(self, size: int) -> memoryview:
        """Return where to put up to ``size`` bytes of a file before :meth:`data`."""
        start = self._end + DATA_HEAD_SIZE
        return self._buffer[start : start + size]

    def data(self, request_id: int, size: int) -> None:
        """Answer READ with the first ``size`` bytes of :meth:`data_space`."""
        _DATA_HEAD.pack_into(self._buffer, self._end, 9 + size, DATA, request_id, size)
        self._end += DATA_HEAD_SIZE + size


def entry(name: bytes, long_name: bytes, attributes: bytes) -> bytes:
    """Return one entry of a NAME answer."""
    return b"".join((_size(len(name)), name, _size(len(long_name)), long_name, attributes))
