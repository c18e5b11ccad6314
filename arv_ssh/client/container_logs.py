"""The log of a container, line by line in the order of time: its files, read from where the last look ended.

Owns the files' names, what a line's time is, and how lines of several files are put in order. Knows no terminal.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass

from arv_ssh.client.controller import Controller
from arv_ssh.client.download import download

FILES = ("crunch-run.txt", "stdout.txt", "stderr.txt")
"""What crunch-run does, and what the container's program prints; stock Arvados has the standard output elsewhere."""
LONGEST_LINE = 1 << 20
"""Bytes; what has no line break for so long is shown as it is."""
_TIME = re.compile(rb'(?:\{"time": ")?([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(?:\.[0-9]+)?)')
_UNKNOWN = b"9"
"""The time of a line that has none, with none before it in its file: after all others of the same look."""


@dataclass(frozen=True, order=True)
class Line:
    """One line of ``file``, without its end. Lines are sorted by ``time``, then in the order of the files."""

    time: bytes
    number: int
    file: str
    text: bytes


class LogFile:
    """One file of the log at ``path``, and how far it has been read."""

    def __init__(self, controller: Controller, path: str, number: int) -> None:
        self._controller = controller
        self._path = f"{path}/{FILES[number]}"
        self._number = number
        self._offset = 0
        self._left = b""
        self._time = _UNKNOWN

    def new_lines(self, *, final: bool) -> Iterator[Line]:
        """Give the lines that are new; a line without an end waits for it, but for the ``final`` time."""
        for piece in self._new_pieces():
            *lines, self._left = (self._left + piece).split(b"\n")
            yield from map(self._line, lines)
            if len(self._left) > LONGEST_LINE:
                left, self._left = self._left, b""
                yield self._line(left)
        if final and self._left:
            left, self._left = self._left, b""
            yield self._line(left)

    def _new_pieces(self) -> Iterator[bytes]:
        with download(self._controller, self._path, self._offset) as answer:
            if answer.status == 404:
                return  # not written yet, or never
            if answer.status == 416:
                if answer.total is not None and answer.total < self._offset:
                    self._offset, self._left = 0, b""  # another attempt to run the container has begun it anew
                return
            if answer.status not in (200, 206):
                raise answer.refusal()
            known = self._offset if answer.status == 200 else 0  # a server that does not know ranges sends it all
            for piece in answer.pieces():
                new, known = piece[known:], max(0, known - len(piece))
                self._offset += len(new)
                if new:
                    yield new

    def _line(self, text: bytes) -> Line:
        if found := _TIME.match(text):
            self._time = found.group(1)
        return Line(self._time, self._number, FILES[self._number], text)


class ContainerLog:
    """The log of ``container`` as ``request`` shows it: both UUIDs."""

    def __init__(self, controller: Controller, request: str, container: str) -> None:
        path = f"/arvados/v1/container_requests/{request}/log/{container}"
        self._files = [LogFile(controller, path, number) for number in range(len(FILES))]

    def new_lines(self, *, final: bool) -> Iterator[Line]:
        """Give the lines of all files that are new, in the order of time."""
        return heapq.merge(*(file.new_lines(final=final) for file in self._files), key=lambda line: line.time)
