"""An exec of the engine as a process, on a stream of our own; the conformance suite has the engine itself."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any, cast

from crunch_sshd.runtimes import Output
from crunch_sshd.runtimes.docker import DockerProcess
from crunch_sshd.runtimes.host_processes import ContainerIdentity
from crunch_sshd.ssh.aes_gcm import packet_room


def test_frame_that_is_larger_than_what_is_read_at_a_time() -> None:
    """A frame comes out piece by piece, and the next one, of the other stream, after all of it."""
    ours, theirs = socket.socketpair()
    client = cast(Any, SimpleNamespace())
    process = DockerProcess(client, "c", ContainerIdentity("c"), "e", "program", ours, b"", None)
    room, data = packet_room(16, 16), bytes(range(256)) + b"the rest"
    theirs.sendall(b"\1\0\0\0\0\0\1\x08" + data + b"\2\0\0\0\0\0\0\3err")
    theirs.close()
    read = []
    while (output := process.read(room)) is not None:
        read.append((output[0], b"".join(room.pieces(output[1]))))
    process.close()
    assert read == [(Output.STDOUT, data[:256]), (Output.STDOUT, b"the rest"), (Output.STDERR, b"err")]
