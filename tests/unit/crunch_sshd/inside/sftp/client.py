"""An SFTP client for tests that says exactly what it is told, and the servers to say it to."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import crunch_sshd
from crunch_sshd.inside.sftp import wire
from crunch_sshd.inside.sftp.operations import Operations

PACKAGES = str(Path(crunch_sshd.__file__).parent.parent)
OURS = [
    sys.executable,
    "-I",
    "-S",
    "-c",
    f"import sys; sys.path.append({PACKAGES!r}); "
    "from crunch_sshd.inside.sftp.__main__ import run; sys.exit(run('.', '/root'))",
]
"""The command of our server without a container: in the working directory, on this machine's files."""


def packet(kind: int, *fields: int | bytes | tuple[int]) -> bytes:
    """Return a packet; bytes become strings, integers uint32, and integers in a tuple uint64."""
    body = bytes([kind]) + b"".join(map(_field, fields))
    return wire.number(len(body)) + body


def _field(value: int | bytes | tuple[int]) -> bytes:
    if isinstance(value, bytes):
        return wire.text(value)
    return wire.long_number(value[0]) if isinstance(value, tuple) else wire.number(value)


def do(operations: Operations, requests: bytes) -> None:
    """Have a server without a process do these requests."""
    packets = wire.Packets()
    packets.space[0][: len(requests)] = requests
    for request in packets.received(len(requests)):
        operations.handle(*request)


class Answer:
    """One answer: its kind, its request's id, and the rest."""

    def __init__(self, body: bytes) -> None:
        self.kind, self.request_id = struct.unpack_from(">BI", body)
        self.content = body[5:]

    @property
    def code(self) -> int:
        """The code of a STATUS."""
        assert self.kind == wire.STATUS, self
        return int(struct.unpack_from(">I", self.content)[0])

    @property
    def text(self) -> bytes:
        """The string that comes first, or after the code of a STATUS."""
        start = 4 if self.kind == wire.STATUS else 0
        (size,) = struct.unpack_from(">I", self.content, start)
        return self.content[start + 4 : start + 4 + size]

    def names(self) -> list[tuple[bytes, bytes, bytes]]:
        """The entries of a NAME: name, long name, attributes but for the time of access, which a look changes."""
        assert self.kind == wire.NAME, self
        fields = wire.Fields(memoryview(self.content))
        return [(fields.string(), fields.string(), _attributes(fields)) for _ in range(fields.u32())]

    def __repr__(self) -> str:
        return f"Answer({self.kind}, {self.content[:80]!r})"


def _attributes(fields: wire.Fields) -> bytes:
    flags = fields.u32()
    if not flags:
        return b""
    assert flags == 15
    values = (fields.u64(), *(fields.u32() for _ in range(5)))
    return repr(values[:4] + values[5:]).encode()


def answers(data: bytes) -> list[Answer]:
    """Return all answers in ``data``, which must end with the last."""
    found = []
    while data:
        (size,) = struct.unpack_from(">I", data)
        assert len(data) >= 4 + size
        found.append(Answer(data[4 : 4 + size]))
        data = data[4 + size :]
    return found


class Client:
    """A conversation with a server process, one request after the other."""

    def __init__(self, command: list[str], directory: Path) -> None:
        environment = os.environ | {"TZ": "UTC"}
        self.process: Any = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=directory, env=environment
        )
        self._last = 0
        self.send(packet(wire.INIT, wire.VERSION))
        self.version = self.receive()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def receive(self) -> Answer:
        """Return the next answer."""
        (size,) = struct.unpack(">I", self._exactly(4))
        return Answer(self._exactly(size))

    def _exactly(self, size: int) -> bytes:
        data: bytes = self.process.stdout.read(size)
        assert len(data) == size, "the server has ended"
        return data

    def ask(self, kind: int, *fields: int | bytes | tuple[int]) -> Answer:
        """Send a request and return its answer."""
        self._last += 1
        self.send(packet(kind, self._last, *fields))
        answer = self.receive()
        assert answer.request_id == self._last
        return answer

    def extended(self, name: bytes, *fields: int | bytes | tuple[int]) -> Answer:
        """Send an extension's request and return its answer."""
        return self.ask(wire.EXTENDED, name, *fields)

    def open(self, path: bytes, pflags: int = 1, *attributes: int | bytes | tuple[int]) -> bytes:
        """Open a file and return its handle."""
        answer = self.ask(wire.OPEN, path, pflags, *(attributes or (0,)))
        assert answer.kind == wire.HANDLE, answer
        return answer.text
