"""The output of an exec as the engine's API sends it: in frames, each of one stream, or as a terminal's plain bytes.

Owns the frames (Docker API, "Attach to a container", Stream format). Does no I/O.
"""

from __future__ import annotations

from struct import Struct

from crunch_sshd.runtimes import Output

STDERR = 2
_HEAD = Struct(">BxxxL")


class DockerFrames:
    """Takes what arrives, in any pieces, and gives outputs; ``tty`` says that there are no frames."""

    def __init__(self, *, tty: bool) -> None:
        self._tty = tty
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the stream."""
        self._buffer += data

    @property
    def is_cut(self) -> bool:
        """Say whether a frame has arrived in part, once :meth:`next_output` has no more."""
        return bool(self._buffer)

    def next_output(self) -> tuple[Output, bytes] | None:
        """Return the next output that is complete; None if more must arrive first."""
        if self._tty:
            return (Output.STDOUT, self._take(len(self._buffer))) if self._buffer else None
        if len(self._buffer) < _HEAD.size:
            return None
        kind, size = _HEAD.unpack_from(self._buffer)
        if len(self._buffer) < _HEAD.size + size:
            return None
        data = self._take(_HEAD.size + size)[_HEAD.size :]
        return (Output.STDERR if kind == STDERR else Output.STDOUT), data

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data
