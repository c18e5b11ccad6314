"""The process that stays ready: each process in a container begins as its fork, with everything imported.

Owns the wire to the gateway (:mod:`crunch_sshd.inside.starter`): one packet with a module's name and descriptors in,
one with a pid out; a fork does nothing before that is said. It enters nothing itself, holds nothing of any
container, and reads only what the gateway sends, so it is the same for all. It cannot be debugged, and its executable
is a sealed copy in memory: what its forks leave within the container's reach as /proc/PID/exe cannot be written to
(CVE-2019-5736).

The modules are imported here, outside of all containers, each when it is wanted for the first time. The fork is a bare
system call, which no library notices: so no module may keep anything that two processes must not share, such as a
generator of random numbers (:mod:`random`) or a thread.
"""

from __future__ import annotations

import _socket
import array
import errno
import gc
import marshal
import os
import sys

from crunch_sshd.inside import enter, linux
from crunch_sshd.inside.title import CommandLine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Main = Callable[[dict[str, Any]], int]

MAX_DESCRIPTORS = 64
"""In one packet: the job, three for the standard streams, up to seven namespaces, control groups and a few more."""
MAX_PACKET = 256
"""Bytes of a packet: a module's name, and the place among its descriptors of the control group to be born in."""
NO_GROUP = "-"
STANDARD_STREAMS = 3
UNKNOWN = 1
"""The exit status of a fork that the gateway does not know of; nobody asks for it."""


def main() -> int:
    """Fork whenever the gateway asks, until the gateway closes its end."""
    linux.hide()
    enter.reset_signals()
    linux.set_name("crunch-ready")
    gc.disable()  # here is no garbage
    command_line = CommandLine()
    gateway = _socket.socket(fileno=int(sys.argv[1]))
    while True:
        packet, ancillary, flags, _ = gateway.recvmsg(
            MAX_PACKET, _socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize), _socket.MSG_CMSG_CLOEXEC
        )
        if not packet:
            return 0
        descriptors = array.array("i")
        for _, _, data in ancillary:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        module, _, place = packet.decode().partition(" ")
        answered, answer = os.pipe()
        if flags & _socket.MSG_CTRUNC:
            pid, is_joined = -errno.EMFILE, False
        else:
            pid, is_joined = _fork(module, None if place == NO_GROUP else descriptors[int(place)])
        if pid == 0:
            gateway.close()
            os.close(answer)
            command_line.show(f"crunch-{module.removeprefix(enter.PACKAGE).partition('.')[0]}", module)
            _do(sys.modules[module].main, descriptors.tolist(), is_joined, answered)
        gateway.send(str(pid).encode())
        os.write(answer, b"x")
        for descriptor in (answered, answer, *descriptors):
            os.close(descriptor)


def _fork(module: str, control_group: int | None) -> tuple[int, bool]:
    """Import the module if it is not there yet, and fork; return the pid, 0 in the child, or minus an errno.

    And whether the child was born in the control group.
    """
    try:
        if module not in sys.modules:
            __import__(module)
        gc.freeze()  # a fork's collector need not look at, and so copy, what they all have
        return _born(control_group)
    except OSError as error:
        return -(error.errno or errno.EIO), False
    except Exception:  # e.g. another version has been installed since
        return -errno.ENOEXEC, False


def _born(control_group: int | None) -> tuple[int, bool]:
    if control_group is not None:
        try:
            return linux.fork_into(control_group), True
        except OSError:
            pass  # an older kernel; or it cannot be joined at all, and the child's own try says why
    return linux.fork_as_sibling(), False


def _do(main: Main, descriptors: list[int], is_joined: bool, answered: int) -> NoReturn:
    """Do the job in the first descriptor, with the next three as standard streams; a process of its own session.

    From ``answered`` comes a byte once the gateway has been told of this process: else nobody would end it.
    """
    words = descriptors[0]
    text = os.pread(words, os.fstat(words).st_size, 0)  # the place in it is shared with a fork that began before
    job: dict[str, Any] = marshal.loads(text)  # noqa: S302 - written by the gateway, into memory of its own
    for number, descriptor in enumerate(descriptors[1 : 1 + STANDARD_STREAMS]):
        os.dup2(descriptor, number)
    here = dict(zip(enter.handles(job), descriptors[1 + STANDARD_STREAMS :], strict=True))
    enter.renumber(job, here)
    if is_joined:
        job["unified"] = None
    linux.close_all_but([answered, *enter.handles(job)])
    os.setsid()
    gc.enable()
    if not os.read(answered, 1):
        os._exit(UNKNOWN)
    os.close(answered)
    os._exit(main(job))
