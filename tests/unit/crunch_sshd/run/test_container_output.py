import io
import socket
import struct

import pytest

from crunch_sshd.run.container_output import STDERR, STDOUT, ContainerOutput, Frames

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
    """A file that takes nothing."""

    def write(self, _data: object) -> int:
        raise OSError(28, "No space left on device")


def test_a_full_disk_does_not_block_the_container() -> None:
    """When the output cannot be written, it is read on all the same."""
    ours, engine = socket.socketpair()
    output = ContainerOutput(ours, b"", FullDisk(), io.BytesIO())
    with engine:
        engine.sendall(STREAM * 2000)
    assert output.finish(10)
    output.close()
