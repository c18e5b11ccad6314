"""SFTP sessions as the audit sees them: a real server's answers to real requests, in pieces of any size."""

from __future__ import annotations

import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from crunch_sshd.audit.sftp_operations import AT_ONCE, MAX_OPEN, MAX_PENDING, FileOperations
from crunch_sshd.inside.sftp import wire
from crunch_sshd.inside.sftp.operations import Operations
from crunch_sshd.inside.sftp.wire import Answers
from tests.timing import DEADLINE
from tests.unit.crunch_sshd.inside.sftp.client import do, packet

Noted = list[tuple[str, dict[str, Any]]]


class Session:
    """A server without a process, and what the audit notes of it; ``piece`` is how much it is shown at once."""

    def __init__(self, piece: int = 1 << 20) -> None:
        self.noted: Noted = []
        self.asked: Noted = []
        self.audit = FileOperations(lambda operation, facts: self.noted.append((operation, dict(facts))))
        self._answers = Answers()
        self._server = Operations(self._answers, b"/root", 100)
        self._piece = piece
        self._number = 0
        self.ask(wire.INIT)

    def ask(self, kind: int, *fields: int | bytes | tuple[int], number: int | None = None) -> bytes:
        """Have the server do something; return its answer's content."""
        self._number += 1
        request = packet(kind, self._number if number is None else number, *fields)
        for data in self._pieces(request):
            self.take(data)
        do(self._server, request)
        answer = bytes(self._answers.take())
        for data in self._pieces(answer):
            self.audit.answers(data)
        return answer[9:]

    def take(self, data: bytes) -> None:
        """Show the audit what the client sends, as the gateway does: what it did not look at comes again."""
        while data:
            taken, operations = self.audit.requests(data)
            assert len(operations) <= AT_ONCE
            self.asked += operations
            data = data[taken:]

    def open(self, path: bytes, pflags: int) -> bytes:
        """Open a file; return its handle."""
        return self.ask(wire.OPEN, path, pflags, 0)[4:]

    def _pieces(self, data: bytes) -> list[bytes]:
        return [data[at : at + self._piece] for at in range(0, len(data), self._piece)]


@pytest.mark.parametrize("piece", [1, 10, 1 << 20])
def test_transfers(tmp_path: Path, piece: int) -> None:
    """A file's opening tells how, its close tells how much was read and written, however the bytes are cut."""
    path = os.fsencode(tmp_path / "file")
    session = Session(piece)
    handle = session.open(path, 1 | 2 | 8 | 16)
    session.ask(wire.WRITE, handle, (0,), b"x" * 5000)
    session.ask(wire.WRITE, handle, (5000,), b"y" * 3)
    assert session.ask(wire.READ, handle, (0,), 100_000)[4:] == b"x" * 5000 + b"yyy"
    session.ask(wire.READ, handle, (6000,), 10)
    session.ask(wire.CLOSE, handle)
    name = os.fsdecode(path)
    assert session.noted == [
        ("open", {"path": name, "mode": "read write create truncate"}),
        ("close", {"path": name, "bytes_read": 5003, "bytes_written": 5003}),
    ]


def test_operations(tmp_path: Path) -> None:
    """Each operation that changes or lists something is noted with its paths, a failed one with the error."""
    base = os.fsencode(tmp_path)
    session = Session()
    session.ask(wire.MKDIR, base + b"/d", 0)
    session.ask(wire.SYMLINK, b"target", base + b"/link")
    session.ask(wire.RENAME, base + b"/link", base + b"/d/link")
    session.ask(wire.EXTENDED, b"posix-rename@openssh.com", base + b"/d/link", base + b"/link")
    session.ask(wire.SETSTAT, base + b"/d", 4, 0o700)
    session.ask(wire.REMOVE, base + b"/link")
    session.ask(wire.REMOVE, base + b"/\xff")
    session.ask(wire.RMDIR, base + b"/d")
    listing = session.ask(wire.OPENDIR, base)[4:]
    session.ask(wire.READDIR, listing)
    session.ask(wire.CLOSE, listing)
    session.ask(wire.STAT, base)
    at = str(tmp_path)
    assert session.noted == [
        ("mkdir", {"path": f"{at}/d"}),
        ("symlink", {"target": "target", "path": f"{at}/link"}),
        ("rename", {"path": f"{at}/link", "to": f"{at}/d/link"}),
        ("rename", {"path": f"{at}/d/link", "to": f"{at}/link"}),
        ("setstat", {"path": f"{at}/d"}),
        ("remove", {"path": f"{at}/link"}),
        ("remove", {"path": f"{at}/\\xff", "error": "No such file or directory"}),
        ("rmdir", {"path": f"{at}/d"}),
        ("list", {"path": at}),
        ("close", {"path": at, "bytes_read": 0, "bytes_written": 0}),
    ]
    assert [operation for operation, _ in session.asked] == [name for name, _ in session.noted if name != "close"]


def test_numbers_used_twice(tmp_path: Path) -> None:
    """A client that gives two requests one number hides neither of them."""
    path = os.fsencode(tmp_path / "file")
    Path(os.fsdecode(path)).touch()
    session = Session()
    asked = packet(wire.REMOVE, 7, path) + packet(wire.STAT, 7, path)
    session.audit.requests(asked)
    session.audit.answers(packet(wire.STATUS, 7, wire.OK, b"Success", b"") + packet(wire.STATUS, 7, 2, b"No", b""))
    assert session.noted == [("remove", {"path": os.fsdecode(path)})]


def test_files_left_open(tmp_path: Path) -> None:
    """What is open when the session ends is noted with its sizes."""
    session = Session()
    session.ask(wire.WRITE, session.open(os.fsencode(tmp_path / "file"), 2 | 8), (0,), b"abc")
    session.audit.end()
    assert session.noted[-1] == (
        "close",
        {"path": str(tmp_path / "file"), "bytes_read": 0, "bytes_written": 3, "error": "the session ended before"},
    )


STAT = packet(wire.STAT, 0, b"")


@pytest.mark.parametrize("piece", [1, 10, 1 << 20])
def test_many_operations_at_once(piece: int) -> None:
    """Operations in one piece are looked at some at a time, all of them, however the bytes are cut."""
    session = Session()
    asked = b"".join(packet(wire.REMOVE, number, b"/%d" % number) for number in range(200))
    for at in range(0, len(asked), piece):
        session.take(asked[at : at + piece])
    assert [facts["path"] for _, facts in session.asked] == [f"/{number}" for number in range(200)]


@pytest.mark.parametrize("name", [b"", b"\xff" * 4096 + "\U0001f600".encode()])
def test_memory_of_requests_without_an_answer(name: bytes) -> None:
    """No more is looked at while much waits for answers, and what waits takes the memory that it may."""
    session = Session()
    request = packet(wire.MKDIR, 1, name, 0) if name else STAT
    tracemalloc.start()
    try:
        count = 0
        while session.audit.requests(request)[0]:
            count += 1
        assert tracemalloc.get_traced_memory()[0] < 1.5 * MAX_PENDING
    finally:
        tracemalloc.stop()
    assert count == 4096 or name
    assert not session.audit.wait_room(0)
    number = 1 if name else 0
    session.audit.answers(packet(wire.STATUS, number, wire.OK, b"", b"") * (count // 2 + 1))
    assert session.audit.wait_room(0)
    assert session.audit.requests(request)[0] == len(request)


def test_answer_wakes(tmp_path: Path) -> None:
    """Whoever waits for room goes on when the answers come."""
    session = Session()
    while session.audit.requests(STAT)[0]:
        pass
    found: list[bool] = []
    waiting = threading.Thread(target=lambda: found.append(session.audit.wait_room(DEADLINE)))
    waiting.start()
    session.audit.answers(packet(wire.STATUS, 0, wire.OK, b"", b"") * 4096)
    waiting.join(DEADLINE)
    assert found == [True]


def test_files_without_end() -> None:
    """A server that opens more files than fit into the memory for them is not followed."""
    session = Session()
    for number in range(MAX_OPEN // 4096):
        session.take(packet(wire.OPEN, 1, b"/" * 4096, 1, 0))
        session.audit.answers(packet(wire.HANDLE, 1, b"%d" % number))
    assert session.noted[-1][0] == "unreadable" and "more files" in session.audit.lost


def test_handle_that_was_guessed(tmp_path: Path) -> None:
    """Nobody writes past the count of bytes with a handle that the server will say only later."""
    path = os.fsencode(tmp_path / "file")
    session = Session()
    session.take(packet(wire.OPEN, 1, path, 2 | 8, 0) + packet(wire.WRITE, 2, bytes(4), (0,), b"x"))
    session.audit.answers(packet(wire.HANDLE, 1, bytes(4)) + packet(wire.STATUS, 2, wire.OK, b"", b""))
    assert [operation for operation, _ in session.noted] == ["open", "unreadable"]


@pytest.mark.parametrize(
    ("requests", "answers"),
    [
        (bytes(4), b""),
        (wire.number(wire.MAX_PACKET + 1) + b"x", b""),
        (packet(wire.REMOVE, 1), b""),
        (b"", packet(wire.STATUS, 1, 0, b"", b"")),
    ],
)
def test_what_cannot_be_followed(requests: bytes, answers: bytes) -> None:
    """A stream that breaks the protocol is noted once and then left alone."""
    session = Session()
    session.audit.requests(requests)
    session.audit.answers(answers)
    session.ask(wire.MKDIR, b"/nowhere/at/all", 0)
    assert [operation for operation, _ in session.noted] == ["unreadable"]
