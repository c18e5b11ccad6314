"""One process's audit chain on disk: a file, its head file, and the files it goes on in.

Owns names, modes, rotation, and that a write which failed half-way leaves no half record before a whole one. This is
each chain's only writer; it blocks as long as the disk does. Knows nothing of what is recorded.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from arv_ssh.audit.chain import END, START, Head, seal

SUFFIX = ".jsonl"
HEAD_SUFFIX = ".head"
MAX_SIZE = 64 * 1024 * 1024
"""Bytes after which a chain goes on in a new file."""


def timestamp(seconds: float) -> str:
    """Return unix ``seconds`` as RFC 3339 in UTC, with milliseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"


class ChainFile:
    """Appends to a chain in ``directory``, made at the first record. One thread.

    ``program`` begins the files' names and appears in their first records.
    """

    def __init__(self, directory: Path, program: str, *, max_size: int = MAX_SIZE) -> None:
        self._directory = directory
        self._program = program
        self._max_size = max_size
        self._chain = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "-" + secrets.token_hex(4)
        self._files = 0
        self._path: Path | None = None
        self._descriptor = self._head_descriptor = -1
        self._size = 0
        self._head = Head()

    def write(self, records: Sequence[Mapping[str, Any]], *, sync: bool) -> None:
        """Append records in one piece; with ``sync`` they are on the disk afterwards.

        Raises OSError; then none of them is part of the chain.
        """
        if self._descriptor < 0 or self._removed():
            self._begin(sync)
        elif self._size >= self._max_size:
            self._rotate(sync)
        self._append(records, sync)

    def close(self) -> None:
        """End the chain in good order. Raises OSError when that could not be written."""
        if self._descriptor >= 0:
            try:
                self._append([self._event(END)], sync=True)
            finally:
                self._release()

    def _removed(self) -> bool:
        return os.fstat(self._descriptor).st_nlink == 0

    def _rotate(self, sync: bool) -> None:
        self._append([self._event(END, next=self._name(self._files + 1))], sync)
        self._begin(sync)

    def _begin(self, sync: bool) -> None:
        """Go on in a new file, with its first record. The previous file stays as it is."""
        self._release()
        former, path = self._path, self._directory / self._name(self._files + 1)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._open(path)
            self._append([self._first_record(former)], sync)
            if sync:
                _sync_directory(self._directory)
        except OSError:
            self._release()
            for leftover in (path, head_path(path)):
                leftover.unlink(missing_ok=True)
            raise
        self._path, self._files = path, self._files + 1

    def _open(self, path: Path) -> None:
        self._size = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(path, flags | os.O_EXCL | os.O_APPEND, 0o600)
        self._head_descriptor = os.open(head_path(path), flags | os.O_TRUNC, 0o600)

    def _first_record(self, former: Path | None) -> dict[str, Any]:
        return self._event(
            START,
            chain=self._chain,
            program=self._program,
            host=socket.gethostname(),
            pid=os.getpid(),
            continues=former.name if former else None,
        )

    def _name(self, number: int) -> str:
        return f"{self._program}-{self._chain}.{number}{SUFFIX}"

    def _event(self, name: str, **fields: Any) -> dict[str, Any]:
        return {"time": timestamp(time.time()), "event": name, **fields}

    def _append(self, records: Sequence[Mapping[str, Any]], sync: bool) -> None:
        head, lines = self._head, []
        for record in records:
            line, head = seal(head, record)
            lines.append(line)
        data = b"".join(lines)
        try:
            self._write_all(data)
            if sync:
                os.fdatasync(self._descriptor)
            os.pwrite(self._head_descriptor, head.encode(), 0)
        except OSError:
            self._take_back()
            raise
        self._size += len(data)
        self._head = head

    def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def _take_back(self) -> None:
        """Remove the remains of a failed write, or, where that is forbidden too, leave this file for a new one."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            self._release()

    def _release(self) -> None:
        for descriptor in (self._descriptor, self._head_descriptor):
            if descriptor >= 0:
                with suppress(OSError):  # everything has been written, or was reported as failed
                    os.close(descriptor)
        self._descriptor = self._head_descriptor = -1


def head_path(path: Path) -> Path:
    """Return where the head of the chain file ``path`` is kept."""
    return path.with_name(path.name + HEAD_SUFFIX)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
