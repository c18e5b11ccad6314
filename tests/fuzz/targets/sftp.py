"""SFTP: the file server's requests against a tree, and the audit that reads along."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import tempfile
from pathlib import Path
from struct import unpack_from
from typing import Any

from crunch_sshd.audit.sftp_operations import FileOperations
from crunch_sshd.inside.sftp import paths, wire
from crunch_sshd.inside.sftp.operations import Operations
from crunch_sshd.inside.sftp.wire import Answers, Malformed, Packets
from tests.fuzz.harness import Choices, Target, pieces

LARGEST_FILE = 1 << 20


class Tree:
    """A small tree, which is the working directory meanwhile. Names in requests have no slash, so nothing leaves it."""

    def __enter__(self) -> Tree:
        self._before = os.getcwd()
        self._root = tempfile.mkdtemp(prefix="arv-ssh-fuzz-")
        os.chdir(self._root)
        Path("file").write_bytes(b"contents\n" * 100)
        Path("empty").touch()
        Path("dir").mkdir()
        Path("dir", "in").write_bytes(b"x")
        for target, name in (("file", "link"), ("loop", "loop"), ("none", "dangling"), ("dir", "dirlink")):
            os.symlink(target, name)
        self._limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, self._limit[1]))
        return self

    def __exit__(self, *error: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limit)
        os.chdir(self._before)
        os.chmod(self._root, 0o700)
        shutil.rmtree(self._root, onerror=_make_removable)


def _make_removable(function: Any, path: str, error: Any) -> None:
    os.chmod(os.path.dirname(path), 0o700)
    os.chmod(path, 0o700, follow_symlinks=False) if not os.path.islink(path) else None
    function(path)


def _harmless(data: bytes) -> bytes:
    return data.replace(b"/", b"_").replace(b"..", b"._")


def requests(data: bytes) -> None:
    """Each request has one answer, in order, whole and of its id; only Malformed ends a session; no handle is left.

    What the audit reads of both directions can be written down, and it never loses a session that the server follows.
    """
    data = _harmless(data)
    notes: list[tuple[str, dict[str, Any]]] = []
    audit = FileOperations(lambda *note: notes.append(note))
    packets, answers, asked = Packets(), Answers(), list[int]()
    operations, said = Operations(answers, b"home", 8), b""
    before = _descriptors()
    with Tree():
        try:
            for piece in pieces(data, 4096):
                audit.requests(piece)
                packets.space[0][: len(piece)] = piece
                for kind, number, packet in packets.received(len(piece)):
                    asked.append(-1 if kind == wire.INIT else number)
                    operations.handle(kind, number, packet)
                    said += _said(answers, audit)
        except Malformed:
            asked.pop() if asked and len(asked) > len(_ids(said)) else None
        finally:
            for handle in (*operations.handles._files, *operations.handles._directories):
                operations.handles.close(memoryview(bytes(wire.CONTENT) + handle))
            audit.end()
    assert _ids(said) == asked
    assert _descriptors() == before
    json.dumps(notes).encode()
    for name, facts in notes:
        assert name and str(facts).encode()


def _said(answers: Answers, audit: FileOperations) -> bytes:
    data = bytes(answers.take())
    audit.answers(data)
    return data


def _ids(said: bytes) -> list[int]:
    found, at = list[int](), 0
    while at < len(said):
        size, kind, number = unpack_from(">IBI", said, at)
        assert 5 <= size <= wire.MAX_PACKET and at + 4 + size <= len(said)
        found.append(-1 if kind == wire.VERSION_ANSWER else number)
        at += 4 + size
    return found


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def real_path(data: bytes) -> None:
    """The server's path without links is the C library's, wherever that has one."""
    with Tree():
        names = (b"file", b"dir", b"link", b"dirlink", b"loop", b"dangling", b"..", b".", b"in", b"", b"none", b"/")
        path = b"/".join(names[one % len(names)] for one in data[:12]).lstrip(b"/")
        try:
            expected = os.path.realpath(path, strict=True)
        except OSError:
            expected = None
        try:
            found = paths.real_path(path)
        except OSError:
            found = None
        assert expected is None or found == expected, (path, found, expected)


def audit(data: bytes) -> None:
    """Anything in either direction, in whatever pieces: nothing is raised, and what is noted can be written down."""
    choices = Choices(data)
    notes: list[Any] = []
    operations = FileOperations(lambda *note: notes.append(note))
    while choices:
        way, words = choices.byte(), choices.string()
        if way & 1:
            notes += operations.requests(words)
        else:
            operations.answers(words)
    operations.end()
    json.dumps(notes).encode()


TARGETS = (
    Target("sftp-requests", requests.__doc__ or "", requests),
    Target("sftp-real-path", real_path.__doc__ or "", real_path),
    Target("sftp-audit", audit.__doc__ or "", audit),
)
