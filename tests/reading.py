"""Reading a process's output, for tests that do not care where it lies."""

from __future__ import annotations

from crunch_sshd.runtimes import Output, Process
from crunch_sshd.ssh.aes_gcm import packet_room


def read(process: Process) -> tuple[Output, bytes] | None:
    """Return the next output of ``process``; None once there is none."""
    room = packet_room(32 * 1024)
    output = process.read(room)
    return output and (output[0], b"".join(room.pieces(output[1])))
