"""Recordings of sessions on a terminal, as asciicast v2 files: what the program showed and when, never what was typed.

Owns the form of the files and the thread that writes them, and ensures that no session waits for it: output that the
disk does not take in time is left out, and a marker in the recording says how much. Each recording is a separate file.
"""

from __future__ import annotations

import codecs
import json
import logging
import os
import re
import secrets
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arv_ssh.log import event
from crunch_sshd.runtimes import Terminal

logger = logging.getLogger(__name__)

LIMIT = 8 * 1024 * 1024
"""Bytes of output that wait to be written, over all sessions, including the memory it takes to keep them."""
EVENT_COST = 512
"""Bytes that an event takes besides its output: a program that writes a byte at a time fills the memory with these."""
LAST_WRITES = 2.0
"""Seconds to write the waiting events when the gateway stops."""
OUTPUT, RESIZE, MARKER = "o", "r", "m"
"""The codes of events (asciicast v2, "Supported event codes")."""
_OBEYED = re.compile("[\x7f-\x9f\u2028\u2029]")
"""What JSON need not escape, yet a terminal obeys or line readers take for a line's end: people look with cat."""


@dataclass(frozen=True)
class _Event:
    recording: Recording
    code: str
    seconds: float
    data: bytes
    missing: int
    """Bytes of output just before it that found no room."""

    @property
    def cost(self) -> int:
        """Bytes of memory that the event takes."""
        return EVENT_COST + len(self.data)


class Recording:
    """One session's recording. ``name`` is the file's name; ``lost`` counts the bytes of output missing from it."""

    def __init__(self, recordings: Recordings, path: Path, terminal: Terminal) -> None:
        self._recordings = recordings
        self._path = path
        self._terminal = terminal
        self._started = time.monotonic()
        self._timestamp = int(time.time())
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._descriptor = -1
        self._size = 0
        self._failed = False
        self._lock = threading.Lock()
        self._missing = 0
        self.lost = 0

    @property
    def name(self) -> str:
        """Return the name of the recording's file."""
        return self._path.name

    def output(self, data: bytes) -> None:
        """Record the program's output. Never blocks."""
        self._put(OUTPUT, data)

    def resize(self, terminal: Terminal) -> None:
        """Record the terminal's new size. Never blocks."""
        self._put(RESIZE, f"{terminal.columns}x{terminal.rows}".encode())

    def end(self) -> None:
        """Have the file closed once all waiting events are written. Never blocks."""
        self._put("", b"")

    def _put(self, code: str, data: bytes) -> None:
        with self._lock:
            happened = _Event(self, code, time.monotonic() - self._started, data, self._missing)
            if self._recordings.put(happened):
                self._missing = 0
            elif code == OUTPUT:
                self._missing += len(data)
                self.lost += len(data)

    # The writer's thread.

    def write(self, happened: _Event) -> None:
        """Write an event; one without a code is the end."""
        if self._failed:
            return
        try:
            if self._descriptor < 0:
                self._open()
            self._append(self._lines(happened))
        except OSError as error:
            self._failed = True
            event(logger, "a recording cannot be written", level=logging.ERROR, file=str(self._path),
                  error=error.strerror or str(error))  # fmt: skip
            self._take_back()
        if not happened.code or self._failed:
            self._close()

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        header: dict[str, Any] = {
            "version": 2,
            "width": self._terminal.columns,
            "height": self._terminal.rows,
            "timestamp": self._timestamp,
            "env": {"TERM": self._terminal.term},
        }
        self._append([header])

    def _lines(self, happened: _Event) -> list[Any]:
        """Return an event's entries. A character cut at the end of an output is completed by the next output."""
        found: list[Any] = []
        at = round(happened.seconds, 6)
        if happened.missing:
            cut = self._decoder.decode(b"", final=True)  # a character cut by the gap will never be completed
            found += [[at, OUTPUT, cut]] if cut else []
            found.append([at, MARKER, f"{happened.missing} bytes of output are missing here: the disk was too slow"])
        text = (
            self._decoder.decode(happened.data, final=not happened.code)
            if happened.code in (OUTPUT, "")
            else happened.data.decode()
        )
        if text:
            found.append([at, happened.code or OUTPUT, text])
        return found

    def _append(self, entries: list[Any]) -> None:
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        data = _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self._size += len(data)

    def _take_back(self) -> None:
        """Remove a half-written line, which no player could read past."""
        if self._descriptor >= 0:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Recordings:
    """The recordings of one gateway, in ``directory``; None records nothing. Any thread."""

    def __init__(self, directory: Path | None = None, *, limit: int = LIMIT) -> None:
        self._directory = directory
        self._limit = limit
        self._changed = threading.Condition()
        self._waiting: deque[_Event] = deque()
        self._bytes = 0
        self._closing = False
        self._thread: threading.Thread | None = None

    def begin(self, session: str, terminal: Terminal) -> Recording | None:
        """Begin to record a session, in a new file whose name begins with ``session``."""
        if self._directory is None:
            return None
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        name = re.sub("[^A-Za-z0-9-]", "_", session)
        # Clients choose request ids: two sessions with the same id must not keep each other from their files.
        return Recording(self, self._directory / f"{name}-{when}-{secrets.token_hex(4)}.cast", terminal)

    def put(self, happened: _Event) -> bool:
        """Have an event written; False when the limit is reached. The end of a recording always has room."""
        with self._changed:
            if happened.code and (self._closing or self._bytes + happened.cost > self._limit):
                return False
            self._bytes += happened.cost
            self._waiting.append(happened)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
                self._thread.start()
            self._changed.notify()
        return True

    def close(self) -> None:
        """Write all waiting events; give up after LAST_WRITES seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(LAST_WRITES)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                happened = self._waiting.popleft()
            happened.recording.write(happened)
            with self._changed:
                self._bytes -= happened.cost


OFF = Recordings()
