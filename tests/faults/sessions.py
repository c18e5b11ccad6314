"""A session of stock ssh that is brought to one phase, held there, and then goes on to its natural end.

Owns what each phase is. Every command ends with exit status 7, so that neither 0 nor 255 can be mistaken for it. Knows
nothing of faults.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.timing import DEADLINE, wait_for

HANDSHAKE, IDLE, DOWNLOAD, UPLOAD, CLOSE = "handshake", "idle", "download", "upload", "close"
BEFORE = "before"
PHASES = (BEFORE, HANDSHAKE, IDLE, DOWNLOAD, UPLOAD, CLOSE)
SIZE = 48 << 20
"""Bytes of a transfer: far more than all buffers on the way hold."""
HELD_AT = 4 << 20
"""Bytes after which a transfer waits for the fault."""
EXIT = 7
COMMANDS = {
    BEFORE: f"exit {EXIT}",
    HANDSHAKE: f"exit {EXIT}",
    IDLE: f"echo ready; cat; exit {EXIT}",
    DOWNLOAD: f"echo ready; head -c {SIZE} /dev/zero; exit {EXIT}",
    UPLOAD: f"echo ready; wc -c; exit {EXIT}",
    CLOSE: f"echo ready; read line; exit {EXIT}",
}
READY = b"ready\n"
TAIL = {IDLE: b"hello\n", UPLOAD: f"{SIZE}\n".encode()}
GATE = Path(__file__).with_name("gate.py")


class Session:
    """One ssh with ``command`` (its words up to the destination), in ``directory``."""

    def __init__(self, command: list[str], environment: dict[str, str], phase: str, directory: Path) -> None:
        self.phase = phase
        self._directory = directory
        self._released = threading.Event()
        self._seen = bytearray()
        self._length = 0
        self._sent = 0
        self._errors = directory / "stderr"
        if phase == HANDSHAKE:
            command = _behind_gate(command, environment, directory)
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*command, COMMANDS[phase]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                env=environment,
            )  # fmt: skip
        self._threads = [threading.Thread(target=step, daemon=True) for step in (self._read, self._write)]
        for thread in self._threads:
            thread.start()

    def reach(self) -> None:
        """Wait until the session is in its phase."""
        if self.phase == HANDSHAKE:
            wait_for(lambda: (self._directory / "reached").exists() or self._ended(), "the handshake")
        elif self.phase != BEFORE:
            wait_for(lambda: self._seen.startswith(READY) or self._ended(), "the session to open")
        if self.phase == UPLOAD:
            wait_for(lambda: self._sent >= HELD_AT or self._ended(), "the upload")
        if self.phase == DOWNLOAD:
            wait_for(lambda: self._length >= HELD_AT or self._ended(), "the download")

    def go_on(self) -> None:
        """Let the session go on to its end."""
        (self._directory / "open").touch()
        self._released.set()

    def wait(self, seconds: float) -> float | None:
        """Wait until ssh has ended; return how long that took, None when it did not end in time."""
        began = time.monotonic()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        return time.monotonic() - began

    def close(self) -> None:
        """Close the pipes, once their threads have seen that ssh is gone."""
        for thread in self._threads:
            thread.join(DEADLINE)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass  # what was not written yet is for nobody

    @property
    def said(self) -> str:
        """What the user has read on stderr."""
        return self._errors.read_text(errors="replace").replace("\r", "")

    def is_whole(self) -> bool:
        """Say whether all output came, and the right one."""
        for thread in self._threads:
            thread.join(DEADLINE)
        if self.phase in (BEFORE, HANDSHAKE):
            return self._length == 0
        if self.phase == DOWNLOAD:
            return self._length == len(READY) + SIZE
        return bytes(self._seen) == READY + TAIL.get(self.phase, b"")

    def _ended(self) -> bool:
        assert self.process.poll() is None, f"ssh ended too early ({self.process.returncode}): {self.said}"
        return False

    def _read(self) -> None:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while data := os.read(descriptor, 65536):
            self._length += len(data)
            self._seen += data[: 100 - len(self._seen)] if len(self._seen) < 100 else b""
            if self.phase == DOWNLOAD and self._length >= HELD_AT:
                self._released.wait()

    def _write(self) -> None:
        assert self.process.stdin is not None
        try:
            if self.phase == UPLOAD:
                self._upload(self.process.stdin.fileno())
            else:
                self._released.wait()
                self.process.stdin.write({IDLE: b"hello\n", CLOSE: b"\n"}.get(self.phase, b""))
            self.process.stdin.close()
        except OSError:
            pass  # ssh is gone; its exit status says so

    def _upload(self, descriptor: int) -> None:
        block = bytes(65536)
        while self._sent < SIZE:
            self._sent += os.write(descriptor, block[: SIZE - self._sent])
            if self._sent >= HELD_AT:
                self._released.wait()


def _behind_gate(command: list[str], environment: dict[str, str], directory: Path) -> list[str]:
    at = command.index("ssh") + 1
    words = [*command[:at], "-G", *command[at:]]
    shown = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    found = re.search(r"^proxycommand (.*)$", shown.stdout, re.MULTILINE)
    assert found, shown.stdout
    gate = " ".join(shlex.quote(word) for word in (sys.executable, str(GATE), str(directory), found[1]))
    return [*command[:at], "-o", f"ProxyCommand={gate}", *command[at:]]


@contextmanager
def session(command: list[str], environment: dict[str, str], phase: str, directory: Path) -> Iterator[Session]:
    """Give a session, whose ssh is killed at the end of the block if it still runs."""
    directory.mkdir()
    one = Session(command, environment, phase, directory)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()
        one.go_on()
        one.close()
