import errno
import io
import os
import socket
import struct
import threading

import pytest

from crunch_sshd.run.container_output import STDERR, STDOUT, ContainerOutput, Frames
from tests.timing import DEADLINE

STREAM = b"".join(
    struct.pack(">BxxxL", number, len(data)) + data
    for number, data in ((STDOUT, b"out"), (STDERR, b""), (STDERR, b"err"), (STDOUT, b"\0" * 300), (STDOUT, b"put"))
)


@pytest.mark.parametrize("size", [1, 7, 10, 1000])
def test_frames_in_any_pieces(size: int) -> None:
    """However the stream is cut, each stream's bytes come out whole and in order."""
    frames = Frames()
    out = {STDOUT: b"", STDERR: b""}
    for start in range(0, len(STREAM), size):
        for number, piece in frames.receive(STREAM[start : start + size]):
            out[number] += piece
    assert out == {STDOUT: b"out" + b"\0" * 300 + b"put", STDERR: b"err"}


def test_early_bytes_come_first() -> None:
    """Bytes that came together with the engine's answer belong to the output."""
    ours, engine = socket.socketpair()
    stdout, stderr = io.BytesIO(), io.BytesIO()
    output = ContainerOutput(ours, STREAM[:5], stdout, stderr)
    with engine:
        engine.sendall(STREAM[5:])
    assert output.finish(10)
    output.close()
    assert (stdout.getvalue()[:3], stderr.getvalue()) == (b"out", b"err")


def test_close_wakes_the_thread() -> None:
    """Closing ends the copying although the engine sends nothing."""
    ours, engine = socket.socketpair()
    output = ContainerOutput(ours, b"", io.BytesIO(), io.BytesIO())
    with engine:
        output.close()
    assert output.finish(0)


class FullDisk(io.BytesIO):
    """A file that takes ``room`` bytes, in parts, and then nothing."""

    def __init__(self, room: int = 0) -> None:
        super().__init__()
        self.room = room

    def write(self, data: object) -> int:
        piece = bytes(data)[: self.room]  # type: ignore[call-overload]
        if not piece:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(piece)
        return super().write(piece)


class OutOfQuota(io.BytesIO):
    """A file that takes everything, and of which it turns out at the end that it did not."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor

    def fileno(self) -> int:
        return self.descriptor


def copied(stdout: io.BytesIO, sent: bytes, *, early: bytes = b"") -> ContainerOutput:
    """Return an output to which the engine has sent ``sent``, once it is over."""
    ours, engine = socket.socketpair()
    output = ContainerOutput(ours, early, stdout, io.BytesIO())
    with engine:
        engine.sendall(sent)
    output.finish(10)
    output.close()
    return output


def test_a_full_disk_does_not_block_the_container() -> None:
    """When the output cannot be written, it is read on all the same, and the failure says how far it was written."""
    output = copied(disk := FullDisk(room=100), STREAM * 2000)
    assert output.failure == "the container's stdout could not be written beyond 100 bytes: No space left on device"
    assert len(disk.getvalue()) == 100


def test_what_was_written_is_not_lost() -> None:
    """Where all of it is written there is no failure."""
    assert copied(FullDisk(room=len(STREAM)), STREAM).failure == ""


def test_a_disk_that_says_so_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file system says only when everything must be on disk is a failure as well."""

    def fsync(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "fsync", fsync)
    assert "beyond 306 bytes: Disk quota exceeded" in copied(OutOfQuota(-1), STREAM).failure


def test_a_pipe_cannot_be_synced() -> None:
    """Output that goes to a pipe is as whole as the pipe says."""
    reader, writer = os.pipe()
    try:
        assert copied(OutOfQuota(writer), STREAM).failure == ""
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("missing", [1, 4, 9])
def test_a_stream_that_is_cut(missing: int) -> None:
    """A stream that ends within a frame is not whole."""
    assert copied(io.BytesIO(), STREAM[:-missing]).failure == "the Docker engine cut the container's output short"


def test_a_write_that_does_not_end() -> None:
    """What is not written by the deadline is a failure, and closing does not wait for it."""
    ours, engine = socket.socketpair()
    released = threading.Event()

    class Hanging(io.BytesIO):
        def write(self, data: object) -> int:
            released.wait(DEADLINE)
            return len(bytes(data))  # type: ignore[call-overload]

    output = ContainerOutput(ours, b"", Hanging(), io.BytesIO())
    with engine:
        engine.sendall(STREAM)
    assert not output.finish(0)
    output.close(timeout=0)
    assert "could not be written within 0 s" in output.failure
    released.set()
    output.close()


SIZE = 128 * 1024
"""Bytes: more than a pipe holds, less than a socket."""


class Counted(io.FileIO):
    """A file that counts its writes."""

    writes = 0

    def write(self, data: object) -> int:
        self.writes += 1
        return super().write(data)  # type: ignore[arg-type]


def test_a_full_pipe_that_does_not_block() -> None:
    """Whoever reads crunch-run's stdout may have made it non-blocking: it is waited for, and not asked all the time."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    sent = struct.pack(">BxxxL", STDOUT, SIZE) + bytes(SIZE)
    ours, engine = socket.socketpair()
    with open(reader, "rb", buffering=0) as end, Counted(writer, "wb") as stdout:
        output = ContainerOutput(ours, b"", stdout, io.BytesIO())
        with engine:
            engine.sendall(sent)
            threading.Event().wait(0.2)  # nobody reads
            asked = stdout.writes
            received = 0
            while received < SIZE:
                received += len(end.read(1 << 16))
        assert output.finish(DEADLINE)
        assert asked < 10, "it was asked again and again"


def test_any_other_failure() -> None:
    """Whatever else goes wrong is a failure too: a thread that has died is no success."""
    closed = io.BytesIO()
    closed.close()
    assert "output was lost: I/O operation on closed file" in copied(closed, STREAM).failure
