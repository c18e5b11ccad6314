"""The process that stays ready: each process in a container begins as its fork, with everything imported.

Owns the wire to the gateway (:mod:`crunch_sshd.inside.starter`): one packet with descriptors in, one with a pid out. It
enters nothing itself, holds nothing of any container, and reads only what the gateway sends, so it is the same for all.
It cannot be debugged, and its executable is a sealed copy in memory: what its forks leave within the container's reach
as /proc/PID/exe cannot be written to (CVE-2019-5736).
"""

from __future__ import annotations

import _socket
import array
import gc
import marshal
import os
import sys

from crunch_sshd.inside import enter, linux, program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

MAX_DESCRIPTORS = 64
"""In one packet: the job, three for the standard streams, up to seven namespaces, control groups and a few more."""
PACKET = 8
"""Bytes of a packet: the place among its descriptors of the control group to be born in, or :data:`NO_GROUP`."""
NO_GROUP = b"-"
STANDARD_STREAMS = 3


def main() -> int:
    """Fork whenever the gateway asks, until the gateway closes its end."""
    linux.hide()
    enter.reset_signals()
    gc.disable()  # each fork lives for milliseconds
    gateway = _socket.socket(fileno=int(sys.argv[1]))
    while True:
        packet, ancillary, _, _ = gateway.recvmsg(
            PACKET, _socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize), _socket.MSG_CMSG_CLOEXEC
        )
        if not packet:
            return 0
        descriptors = array.array("i")
        for _, _, data in ancillary:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        try:
            pid, is_joined = _fork(descriptors[int(packet)] if packet != NO_GROUP else None)
        except OSError as error:
            pid, is_joined = -(error.errno or 0), False
        if pid == 0:
            gateway.close()
            _do(descriptors.tolist(), is_joined)
        for descriptor in descriptors:
            os.close(descriptor)
        gateway.send(str(pid).encode())


def _fork(control_group: int | None) -> tuple[int, bool]:
    """Fork a child of the gateway; return its pid, or 0 in it, and whether it was born in the control group."""
    if control_group is not None:
        try:
            return linux.fork_into(control_group), True
        except OSError:
            pass  # an older kernel; or it cannot be joined at all, and the child's own try says why
    return linux.fork_as_sibling(), False


def _do(descriptors: list[int], is_joined: bool) -> NoReturn:
    """Do the job in the first descriptor, with the next three as standard streams."""
    with open(descriptors[0], "rb") as file:
        job: dict[str, Any] = marshal.loads(file.read())  # noqa: S302 - written by the gateway, into memory of its own
    for number, descriptor in enumerate(descriptors[1 : 1 + STANDARD_STREAMS]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    here = dict(zip(job["descriptors"], descriptors[1 + STANDARD_STREAMS :], strict=True))
    for name in ("report", "root", "cwd"):
        job[name] = here[job[name]]
    job["doors"] = [here[number] for number in job["doors"]]
    job["unified"] = None if is_joined or job["unified"] is None else here[job["unified"]]
    job["namespaces"] = {kind: here[number] for kind, number in job["namespaces"].items()}
    program.main(job)
