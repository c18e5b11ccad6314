"""The engine's frames, whole and in pieces."""

from __future__ import annotations

import pytest

from crunch_sshd.runtimes import Output
from crunch_sshd.runtimes.docker_frames import DockerFrames


def frame(kind: int, data: bytes) -> bytes:
    return bytes([kind, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize("step", [1, 10, 1000])
def test_frames(step: int) -> None:
    """Each frame is one output of its stream, however the frames arrive; one that has arrived in part is not."""
    arriving = frame(1, b"out") + frame(2, b"err") + frame(1, b"") + frame(1, b"x" * 300) + frame(2, b"part")[:-1]
    frames, found = DockerFrames(tty=False), []
    for start in range(0, len(arriving), step):
        frames.feed(memoryview(arriving)[start : start + step])
        while (output := frames.next_output()) is not None:
            found.append(output)
    out, err = Output.STDOUT, Output.STDERR
    assert found == [(out, b"out"), (err, b"err"), (out, b""), (out, b"x" * 300)]
    assert frames.is_cut


def test_terminal() -> None:
    """A terminal's bytes are all output, as they come."""
    frames = DockerFrames(tty=True)
    assert frames.next_output() is None
    frames.feed(b"a")
    frames.feed(frame(2, b"b"))
    assert frames.next_output() == (Output.STDOUT, b"a" + frame(2, b"b"))
    assert frames.next_output() is None and not frames.is_cut
