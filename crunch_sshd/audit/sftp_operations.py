"""An SFTP session's operations on files, read from its packets as they pass the gateway.

Owns the reading of both directions and the records made from it. The server runs as the session's user, and may be the
image's own: its own reports would not count, but the packets that pass here are its actual requests and answers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from arv_ssh.audit.trail import text
from crunch_sshd.inside.sftp import wire
from crunch_sshd.inside.sftp.wire import Fields, Malformed

MAX_HANDLE = 256
"""Bytes of a handle (draft-ietf-secsh-filexfer-02 §6.3)."""
REQUEST_COST = 160
"""Bytes of memory that an unanswered request takes, besides its names."""
NAME_COST = 160
"""Bytes of memory that each name in it takes, besides its length."""
MAX_PENDING = 4096 * REQUEST_COST
"""Bytes of memory for unanswered requests: OpenSSH's sftp has 64 of them on the way, sshfs and WinSCP some hundreds."""
MAX_OPEN = 1024 * 1024
"""Bytes of memory for open files: over 1,000, as many as the file server opens, with paths of 500 bytes."""
FILE_COST = 500
"""Bytes of memory that an open file takes, besides its path and handle."""
AT_ONCE = 64
"""Operations looked at in one piece: as many records wait for the disk at most, where they must be on it first."""
KEPT = {
    wire.WRITE: 1 + 4 + 4 + MAX_HANDLE + 8 + 4, wire.DATA: 1 + 4 + 4,
    wire.NAME: 1 + 4, wire.ATTRS: 1 + 4, wire.EXTENDED_REPLY: 1 + 4,
}  # fmt: skip
"""Bytes to look at in each kind of packet of which not all matters."""
GUESSED = "a handle was used before the server had said it"
_LENGTH = 4

Facts = dict[str, Any]
Names = tuple[tuple[str, bytes], ...]
Operations = list[tuple[str, Facts]]
Note = Callable[[str, Facts], None]
"""Gets an operation and the facts to record about it."""


class Packets:
    """The packets in a stream of bytes, without the data they carry."""

    def __init__(self) -> None:
        self._rest = b""
        self._skip = 0
        self.taken = 0
        """Bytes of the last data that belong to packets yielded so far; all of it once the iteration has ended."""

    def feed(self, data: bytes | memoryview) -> Iterator[memoryview]:
        """Yield the packets that ``data`` completes, without their length; raises :class:`Malformed`.

        Whoever stops early feeds what is left after ``taken`` later.
        """
        if self._skip >= len(data):
            self._skip -= len(data)
            self.taken = len(data)
            return
        before = len(self._rest)
        view = memoryview(b"".join((self._rest, data)) if before else data)
        at = self._skipped(0, len(view))
        while len(view) - at > _LENGTH:
            size = int.from_bytes(view[at : at + _LENGTH], "big")
            if not 0 < size <= wire.MAX_PACKET:
                raise Malformed(f"a packet of {size} bytes was announced")
            start = at + _LENGTH
            kept = start + min(size, KEPT.get(view[start], size))
            if kept > len(view):
                break
            self._rest, self._skip = b"", size
            at = self._skipped(start, len(view))
            self.taken = at - before
            yield view[start:kept]
        self._rest = bytes(view[at:])
        self.taken = len(data)

    def _skipped(self, at: int, end: int) -> int:
        """Return where to go on after what is to be skipped from ``at`` on; what is after ``end`` is skipped later."""
        skipped = min(self._skip, end - at)
        self._skip -= skipped
        return at + skipped


class _File:
    """An open file, or a directory being listed."""

    __slots__ = ("cost", "path", "read", "written")

    def __init__(self, path: bytes, handle: bytes) -> None:
        self.path = path
        self.cost = FILE_COST + len(path) + len(handle)
        self.read = 0
        self.written = 0


class _Request:
    """A request that has no answer yet; ``operation`` is "" for one that is not recorded.

    ``names`` are as they came, and become text only for a record: escaping makes them up to 16 times as large.
    """

    __slots__ = ("cost", "file", "guess", "handle", "more", "names", "number", "operation", "size")

    def __init__(self, number: int, operation: str = "", names: Names = (), more: Facts | None = None) -> None:
        self.number = number
        self.operation = operation
        self.names = names
        self.more = more
        self.cost = REQUEST_COST
        for _, value in names:
            self.cost += NAME_COST + len(value)
        self.file: _File | None = None
        self.guess = False
        """Whether it uses a handle that the client was never told, so that nobody knows which file that is."""
        self.handle = b""
        self.size = 0

    @property
    def facts(self) -> Facts:
        """Return what a record says of it."""
        return {name: text(value) for name, value in self.names} | (self.more or {})


class FileOperations:
    """Follows one SFTP session and notes what it does. ``requests`` is called by one thread, ``answers`` by another.

    A stream that cannot be followed is noted once, then ignored; ``lost`` says why. Whoever asks must then end the
    session: a server may well understand what is not understood here, and would go on unwatched.
    """

    def __init__(self, note: Note) -> None:
        self._note = note
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._asked, self._answered = Packets(), Packets()
        self._pending: deque[_Request] = deque()
        self._pending_cost = 0
        self._open: dict[bytes, _File] = {}
        self._open_cost = 0
        self.lost = ""

    @property
    def full(self) -> bool:
        """Say whether so many requests wait for answers that no more are looked at."""
        return self._pending_cost >= MAX_PENDING

    def wait_room(self, timeout: float) -> bool:
        """Block up to ``timeout`` seconds until half of what may wait is answered, and say whether it is."""
        with self._lock:
            return self._changed.wait_for(lambda: self._pending_cost <= MAX_PENDING // 2, timeout)

    def requests(self, data: bytes | memoryview) -> tuple[int, Operations]:
        """Take the client's data; return how many bytes were looked at, and the operations on files requested there.

        The rest, none of which may reach the server, is for the next call: AT_ONCE operations were found, or it is
        :attr:`full`.
        """
        found: Operations = []
        with self._lock:
            if self.full:
                return 0, found
            try:
                for packet in () if self.lost else self._asked.feed(data):
                    self._ask(self._request(packet), found)
                    if self.full or len(found) == AT_ONCE:
                        return self._asked.taken, found
            except Malformed as error:
                self._lose(error)
        return len(data), found

    def _ask(self, request: _Request | None, found: Operations) -> None:
        if request is None:
            return
        self._pending.append(request)
        self._pending_cost += request.cost
        if request.operation:
            found.append((request.operation, request.facts))

    def answers(self, data: bytes | memoryview) -> None:
        """Take the server's data; note the operations that it completes."""
        with self._lock:
            try:
                for packet in () if self.lost else self._answered.feed(data):
                    self._answer(packet)
            except Malformed as error:
                self._lose(error)
            self._changed.notify_all()

    def end(self) -> None:
        """Note the files that were never closed."""
        with self._lock:
            files, self._open = list(self._open.values()), {}
        for file in files:
            self._note("close", {**_sizes(file), "error": "the session ended before"})

    def _lose(self, error: Malformed) -> None:
        self.lost = str(error)
        self._pending.clear()
        self._pending_cost = 0
        self._note("unreadable", {"error": str(error)})

    # Requests.

    def _request(self, packet: memoryview) -> _Request | None:
        fields = Fields(packet)
        kind = fields.byte()
        if kind == wire.INIT:
            return None  # its answer has no number
        number = fields.u32()
        if kind in (wire.CLOSE, wire.READ, wire.WRITE, wire.FSETSTAT):
            return self._on_handle(kind, number, fields)
        if kind == wire.EXTENDED:
            return self._extended(number, fields)
        operation, names = _WITH_PATHS.get(kind, ("", ()))
        read = _read(names, fields)
        return _Request(number, operation, read, {"mode": _mode(fields.u32())} if kind == wire.OPEN else None)

    def _on_handle(self, kind: int, number: int, fields: Fields) -> _Request:
        handle = fields.string()
        request = _Request(number)
        request.file = self._open.get(handle)
        if kind == wire.WRITE:
            fields.u64()
            request.size = fields.u32()
        elif kind == wire.CLOSE:
            request.handle = handle
            request.cost += len(handle)
            return request
        elif kind == wire.FSETSTAT and request.file is not None:
            return _Request(number, "setstat", (("path", request.file.path),))
        request.guess = request.file is None
        return request

    def _extended(self, number: int, fields: Fields) -> _Request:
        operation, names = _EXTENSIONS.get(fields.string(), ("", ()))
        if operation != "copy":
            return _Request(number, operation, _read(names, fields))
        source, _, length, target = fields.string(), fields.u64(), fields.u64(), fields.string()
        path, to = (file.path if (file := self._open.get(handle)) else b"" for handle in (source, target))
        request = _Request(number, operation, (("path", path), ("to", to)), {"length": length})
        request.guess = not (path and to)
        return request

    # Answers.

    def _answer(self, packet: memoryview) -> None:
        fields = Fields(packet)
        kind = fields.byte()
        if kind == wire.VERSION_ANSWER:
            return
        request = self._take(fields.u32())
        if kind == wire.HANDLE:
            self._opened(fields.string(), request)
        elif kind == wire.DATA:
            self._received(request, fields.u32())
        elif kind == wire.STATUS:
            code = fields.u32()
            if code == wire.OK and request.guess:
                raise Malformed(GUESSED)
            self._done(request, "" if code == wire.OK else text(fields.string()) or f"status {code}")

    def _opened(self, handle: bytes, request: _Request) -> None:
        file = _File(dict(request.names).get("path", b""), handle)
        self._forget(handle)
        self._open[handle] = file
        self._open_cost += file.cost
        self._note(request.operation, request.facts)
        if self._open_cost > MAX_OPEN:
            raise Malformed("more files are open than fit into its memory")

    def _forget(self, handle: bytes) -> _File | None:
        """Forget an open file; return it."""
        file = self._open.pop(handle, None)
        self._open_cost -= file.cost if file is not None else 0
        return file

    def _received(self, request: _Request, size: int) -> None:
        if request.file is None:
            raise Malformed(GUESSED)
        request.file.read += size

    def _done(self, request: _Request, error: str) -> None:
        if request.handle:
            file = self._forget(request.handle)
            if file is not None:
                self._note("close", {**_sizes(file), **_error(error)})
        elif request.operation:
            self._note(request.operation, {**request.facts, **_error(error)})
        elif request.file is not None and not error:
            request.file.written += request.size

    def _take(self, number: int) -> _Request:
        """Return the request that an answer is for: the oldest one, unless the server answers in another order."""
        if self._pending and self._pending[0].number == number:
            request = self._pending.popleft()
        else:
            request = self._find(number)
            self._pending.remove(request)
        self._pending_cost -= request.cost
        return request

    def _find(self, number: int) -> _Request:
        for request in self._pending:
            if request.number == number:
                return request
        raise Malformed(f"request {number} was answered, and is not known")


_WITH_PATHS: dict[int, tuple[str, tuple[str, ...]]] = {
    wire.OPEN: ("open", ("path",)),
    wire.OPENDIR: ("list", ("path",)),
    wire.SETSTAT: ("setstat", ("path",)),
    wire.REMOVE: ("remove", ("path",)),
    wire.MKDIR: ("mkdir", ("path",)),
    wire.RMDIR: ("rmdir", ("path",)),
    wire.RENAME: ("rename", ("path", "to")),
    wire.SYMLINK: ("symlink", ("target", "path")),
}
"""The requests that are recorded, and their leading strings. Reading attributes and links is not recorded."""
_EXTENSIONS: dict[bytes, tuple[str, tuple[str, ...]]] = {
    b"posix-rename@openssh.com": ("rename", ("path", "to")),
    b"hardlink@openssh.com": ("link", ("path", "to")),
    b"lsetstat@openssh.com": ("setstat", ("path",)),
    b"copy-data": ("copy", ()),
}
_MODES = ((1, "read"), (2, "write"), (4, "append"), (8, "create"), (16, "truncate"), (32, "exclusive"))
"""The bits of pflags (draft-ietf-secsh-filexfer-02 §6.3)."""


def _read(names: tuple[str, ...], fields: Fields) -> Names:
    return tuple((name, fields.string()) for name in names)


def _mode(pflags: int) -> str:
    return " ".join(word for bit, word in _MODES if pflags & bit)


def _sizes(file: _File) -> Facts:
    return {"path": text(file.path), "bytes_read": file.read, "bytes_written": file.written}


def _error(error: str) -> Facts:
    return {"error": error} if error else {}
