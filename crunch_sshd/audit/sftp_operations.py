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
MAX_PENDING = 200_000
"""Unanswered requests: more than fit into the channel's window and the pipes."""
KEPT = {wire.WRITE: 1 + 4 + 4 + MAX_HANDLE + 8 + 4, wire.DATA: 1 + 4 + 4}
"""Bytes to look at in each kind of packet that carries data."""
_LENGTH = 4

Facts = dict[str, Any]
Note = Callable[[str, Facts], None]
"""Gets an operation and the facts to record about it."""


class Packets:
    """The packets in a stream of bytes, without the data they carry."""

    def __init__(self) -> None:
        self._rest = b""
        self._skip = 0

    def feed(self, data: bytes | memoryview) -> Iterator[memoryview]:
        """Yield the packets that ``data`` completes, without their length; raises :class:`Malformed`."""
        if self._skip >= len(data):
            self._skip -= len(data)
            return
        view = memoryview(data)[self._skip :]
        self._skip = 0
        if self._rest:
            view = memoryview(b"".join((self._rest, view)))
        at = 0
        while len(view) - at > _LENGTH:
            size = int.from_bytes(view[at : at + _LENGTH], "big")
            if not 0 < size <= wire.MAX_PACKET:
                raise Malformed(f"a packet of {size} bytes was announced")
            start, end = at + _LENGTH, at + _LENGTH + size
            kept = start + min(size, KEPT.get(view[start], size))
            if kept > len(view):
                break
            yield view[start:kept]
            self._skip = max(0, end - len(view))
            at = min(end, len(view))
        self._rest = bytes(view[at:])


class _File:
    """An open file, or a directory being listed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.read = 0
        self.written = 0


class _Request:
    """A request that has no answer yet; ``operation`` is "" for one that is not recorded."""

    def __init__(self, number: int, operation: str = "", facts: Facts | None = None) -> None:
        self.number = number
        self.operation = operation
        self.facts = facts or {}
        self.file: _File | None = None
        self.handle = b""
        self.size = 0


class FileOperations:
    """Follows one SFTP session and notes what it does. ``requests`` is called by one thread, ``answers`` by another.

    A stream that cannot be followed is noted once, then ignored; ``lost`` says why. Whoever asks must then end the
    session: a server may well understand what is not understood here, and would go on unwatched.
    """

    def __init__(self, note: Note) -> None:
        self._note = note
        self._lock = threading.Lock()
        self._asked, self._answered = Packets(), Packets()
        self._pending: deque[_Request] = deque()
        self._open: dict[bytes, _File] = {}
        self.lost = ""

    def requests(self, data: bytes | memoryview) -> list[tuple[str, Facts]]:
        """Take the client's data; return the operations on files that it requests."""
        found = []
        with self._lock:
            try:
                for packet in () if self.lost else self._asked.feed(data):
                    request = self._request(packet)
                    if request is not None:
                        self._pending.append(request)
                        if request.operation:
                            found.append((request.operation, request.facts))
                if len(self._pending) > MAX_PENDING:
                    raise Malformed("there are too many requests without an answer")
            except Malformed as error:
                self._lose(error)
        return found

    def answers(self, data: bytes) -> None:
        """Take the server's data; note the operations that it completes."""
        with self._lock:
            try:
                for packet in () if self.lost else self._answered.feed(data):
                    self._answer(packet)
            except Malformed as error:
                self._lose(error)

    def end(self) -> None:
        """Note the files that were never closed."""
        with self._lock:
            files, self._open = list(self._open.values()), {}
        for file in files:
            self._note("close", {**_sizes(file), "error": "the session ended before"})

    def _lose(self, error: Malformed) -> None:
        self.lost = str(error)
        self._pending.clear()
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
        request = _Request(number, operation, {name: text(fields.string()) for name in names})
        if kind == wire.OPEN:
            request.facts["mode"] = _mode(fields.u32())
        return request

    def _on_handle(self, kind: int, number: int, fields: Fields) -> _Request:
        handle = fields.string()
        request = _Request(number)
        request.file = self._open.get(handle)
        if kind == wire.WRITE:
            fields.u64()
            request.size = fields.u32()
        elif kind == wire.CLOSE:
            request.handle = handle
        elif kind == wire.FSETSTAT and request.file is not None:
            request.operation, request.facts = "setstat", {"path": request.file.path}
        return request

    def _extended(self, number: int, fields: Fields) -> _Request:
        operation, names = _EXTENSIONS.get(fields.string(), ("", ()))
        if operation != "copy":
            return _Request(number, operation, {name: text(fields.string()) for name in names})
        source, _, length, target = fields.string(), fields.u64(), fields.u64(), fields.string()
        paths = [file.path if (file := self._open.get(handle)) else "" for handle in (source, target)]
        return _Request(number, operation, {"path": paths[0], "to": paths[1], "length": length})

    # Answers.

    def _answer(self, packet: memoryview) -> None:
        fields = Fields(packet)
        kind = fields.byte()
        if kind == wire.VERSION_ANSWER:
            return
        request = self._take(fields.u32())
        if kind == wire.HANDLE:
            self._open[fields.string()] = _File(request.facts.get("path", ""))
            self._note(request.operation, request.facts)
        elif kind == wire.DATA and request.file is not None:
            request.file.read += fields.u32()
        elif kind == wire.STATUS:
            code = fields.u32()
            self._done(request, "" if code == wire.OK else text(fields.string()) or f"status {code}")

    def _done(self, request: _Request, error: str) -> None:
        if request.handle:
            file = self._open.pop(request.handle, None)
            if file is not None:
                self._note("close", {**_sizes(file), **_error(error)})
        elif request.operation:
            self._note(request.operation, {**request.facts, **_error(error)})
        elif request.file is not None and not error:
            request.file.written += request.size

    def _take(self, number: int) -> _Request:
        """Return the request that an answer is for: the oldest one, unless the server answers in another order."""
        if self._pending and self._pending[0].number == number:
            return self._pending.popleft()
        for request in self._pending:
            if request.number == number:
                self._pending.remove(request)
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


def _mode(pflags: int) -> str:
    return " ".join(word for bit, word in _MODES if pflags & bit)


def _sizes(file: _File) -> Facts:
    return {"path": file.path, "bytes_read": file.read, "bytes_written": file.written}


def _error(error: str) -> Facts:
    return {"error": error} if error else {}
