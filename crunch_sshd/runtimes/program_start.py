"""Starting a session's program from the ready process, without any engine or OCI runtime in between.

Owns what the gateway opens for it (the container's namespaces, root, control groups and terminal; the pipes), and the
report on how it went. The caller decides what the program is held to (:mod:`crunch_sshd.runtimes.confinement`); the
process itself takes it on (:mod:`crunch_sshd.inside.program`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import signal
import stat
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from arv_ssh.errors import Unavailable
from crunch_sshd.inside.enter import handles
from crunch_sshd.inside.starter import starter
from crunch_sshd.runtimes import Output, StartFailed, Terminal, terminal_modes, terminal_name
from crunch_sshd.runtimes.child import reap
from crunch_sshd.runtimes.confinement import Confinement
from crunch_sshd.runtimes.host_container import HostContainer
from crunch_sshd.runtimes.host_process import widen
from crunch_sshd.runtimes.host_processes import ContainerIdentity

NAMESPACES = ("cgroup", "ipc", "uts", "net", "pid", "mnt", "user")
START_TIMEOUT = 60.0
"""Seconds for a program to start; in a frozen container it never does."""
REPORT_LIMIT = 64 * 1024
REPORTED_PID = re.compile(r"pid ([1-9][0-9]{0,8})")
REPORTED_FAILURE = re.compile(r"failed ([0-9]{1,3}) (.*)")
PTMX = (5, 2)
"""The device number of /dev/ptmx (pts(4))."""
POWER = os.uname().machine.startswith("ppc")
TIOCSPTLCK = 0x80045431 if POWER else 0x40045431
"""Unlocks the other end of a new terminal (ioctl_tty(2))."""
TIOCGPTN = 0x40045430 if POWER else 0x80045430
"""Asks for a terminal's number among those of its /dev/pts (ioctl_tty(2))."""
TIOCGPTPEER = 0x20005441 if POWER else 0x5441
"""Opens the other end by no path, which the container could have replaced (ioctl_tty(2))."""

PROGRAM = "crunch_sshd.inside.program"


class TooLate(Unavailable):
    """A program did not start in time: its container is frozen, or somebody inside stops what begins there."""


class NotReported(Unavailable):
    """Nothing was executed, and perhaps a process was left that ends at once, and that nobody knows of.

    So too where the exit status of :class:`StartFailed` is LOST.
    """


@dataclass(frozen=True)
class Program:
    """What to start and how: what it is held to, as who outside (``owner``, a uid of this host), and what it executes.

    ``cwd`` is an entry of /proc/PID of the container's first process, ``cwd`` or ``root``, where it starts before it
    goes to ``directory``; with ``root_goes`` it goes there before it gives up root's rights, if it can, as runc does.
    ``identity`` tells the container's processes from all others. ``own_terminal`` demands a terminal of the container's
    own /dev/pts.
    """

    argv: Sequence[str]
    environment: Mapping[bytes, bytes]
    directory: str | None
    cwd: str
    root_goes: bool
    own_terminal: bool
    confinement: Confinement
    no_new_privs: bool
    owner: int | None
    identity: ContainerIdentity


@dataclass(frozen=True)
class Started:
    """A program that runs, a child of this process: its pid, and our ends of its input and outputs."""

    pid: int
    stdin: int
    outputs: dict[int, Output]


def get_ready() -> None:
    """Have the process ready that programs begin in; a failure shows when one starts."""
    with suppress(OSError):
        starter.prepare()


def start(container: HostContainer, name: str, program: Program, terminal: Terminal | None) -> Started:
    """Start a program in a container that users know as ``name``.

    Raises :class:`StartFailed`; OSError or :class:`Unavailable` when the container cannot be entered.
    """
    with ExitStack() as stack:
        opened = _Opened(stack)
        job = _describe(container, program, terminal, opened)
        if terminal is None:
            return _start_with_pipes(container, name, job, program, opened)
        return _start_with_terminal(container, name, job, program, terminal, opened)


def _describe(
    container: HostContainer, program: Program, terminal: Terminal | None, opened: _Opened
) -> dict[str, Any]:
    """Return the job for the child, except for the descriptors of this one session."""
    held = program.confinement
    return {
        **vars(held),
        "filters": [(one.program, one.flags) for one in held.filters],
        "argv": [os.fsencode(word) for word in program.argv],
        "environment": dict(program.environment),
        "directory": None if program.directory is None else os.fsencode(program.directory),
        "root_goes": program.root_goes,
        "terminal": terminal is not None,
        "no_new_privs": program.no_new_privs,
        "namespaces": opened.all_of(container.open_namespaces(NAMESPACES)),
        "root": opened.closing(container.open_root()),
        "cwd": opened.closing(container.open_process(program.cwd, os.O_PATH | os.O_DIRECTORY)),
        **_doors(container, opened),
    }


def _doors(container: HostContainer, opened: _Opened) -> dict[str, Any]:
    found = vars(container.open_doors())
    for descriptor in handles(found):
        opened.closing(descriptor)
    return found


def _start_with_pipes(
    container: HostContainer, name: str, job: dict[str, Any], program: Program, opened: _Opened
) -> Started:
    with ExitStack() as ours:
        theirs, kept = [], []
        for reading in (True, False, False):
            reader, writer = os.pipe()
            theirs.append(opened.closing(reader if reading else writer))
            kept.append(ours.enter_context(_Descriptor(writer if reading else reader)).number)
            widen(reader)
            _give(theirs[-1], program.owner)
        pid = _launch(container, name, job, program.identity, opened, theirs)
        ours.pop_all()
    return Started(pid, kept[0], {kept[1]: Output.STDOUT, kept[2]: Output.STDERR})


def _start_with_terminal(
    container: HostContainer, name: str, job: dict[str, Any], program: Program, terminal: Terminal, opened: _Opened
) -> Started:
    with ExitStack() as ours:
        master, slave, path = _open_terminal(container)
        ours.enter_context(_Descriptor(master))
        opened.closing(slave)
        _give(slave, program.owner)
        terminal_modes.apply(master, terminal.modes)
        terminal_modes.resize(master, terminal)
        if not path and program.own_terminal:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/dev/ptmx")
        if path:
            job["environment"][os.fsencode(terminal_name.VARIABLE)] = os.fsencode(path)
        pid = _launch(container, name, job, program.identity, opened, [slave, slave, slave])
        ours.pop_all()
    return Started(pid, master, {master: Output.STDOUT})


def _open_terminal(container: HostContainer) -> tuple[int, int, str]:
    """Return both ends of a new terminal, and its name in the container if it is the container's own, else ""."""
    found = _open_ptmx(container)
    if found is None:
        return *os.openpty(), ""
    with _Descriptor(found) as master:
        fcntl.ioctl(master.number, TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master.number, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        number = struct.unpack("I", fcntl.ioctl(found, TIOCGPTN, bytes(4)))[0]
        return master.release(), slave, f"/dev/pts/{number}"


def _open_ptmx(container: HostContainer) -> int | None:
    try:
        found = container.open("/dev/ptmx", os.O_PATH)
    except OSError:
        return None
    with _Descriptor(found) as place:
        kind = os.fstat(found)
        if not stat.S_ISCHR(kind.st_mode) or (os.major(kind.st_rdev), os.minor(kind.st_rdev)) != PTMX:
            return None  # open nothing else: merely opening some devices has an effect
        try:
            return os.open(f"/proc/self/fd/{place.number}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return None  # a device file in a container without /dev/pts


def _launch(
    container: HostContainer, name: str, job: dict[str, Any], identity: ContainerIdentity, opened: _Opened,
    streams: Sequence[int],
) -> int:  # fmt: skip
    """Start the child; return the pid of the program once it runs, a child of this process."""
    reader, writer = (opened.closing(descriptor) for descriptor in os.pipe())
    job["report"] = writer
    child = starter.start(PROGRAM, job, streams)
    opened.close_writer(writer)
    try:
        report = _read_report(reader)
    except TimeoutError as late:
        os.kill(child, signal.SIGKILL)
        if (stopped := _pid(str(late), identity)) is not None:  # by somebody inside, before it became the program
            os.kill(stopped, signal.SIGKILL)
            reap(stopped)
        raise TooLate(
            f"container {name} did not start the program within {START_TIMEOUT:g} s; is it frozen?"
        ) from None
    finally:
        reap(child)  # it ends right after its report, unless it is frozen with its container
    return _started(name, report, identity)


def _pid(report: str, identity: ContainerIdentity) -> int | None:
    """Return the pid of the program to be, once it has been reported.

    Who can trace the program before it starts can write to the report as well: only a child of ours in the container is
    believed.
    """
    reported = filter(None, map(REPORTED_PID.fullmatch, report.splitlines()))
    return next((pid for pid in (int(one[1]) for one in reported) if _is_ours(pid, identity)), None)


def _is_ours(pid: int, identity: ContainerIdentity) -> bool:
    """Say whether this is a child of ours in the container; one that has ended cannot be looked into any more."""
    try:
        return _has_ended(pid) or identity.covers(pid) or _has_ended(pid)
    except ChildProcessError:
        return False


def _has_ended(child: int) -> bool:
    """Say whether a child of ours has ended; raise ChildProcessError for any other process."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _started(name: str, report: str, identity: ContainerIdentity) -> int:
    pid = _pid(report, identity)
    failure = next(filter(None, map(REPORTED_FAILURE.fullmatch, report.splitlines())), None)
    if failure is not None:
        if pid is not None:
            reap(pid)
        raise StartFailed(failure[2], int(failure[1]))
    if pid is None:
        raise NotReported(f"container {name} ended the session's program before it started; is it out of memory?")
    return pid


class _Descriptor:
    """A descriptor that is closed at the end of a block, unless it was released."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._open = True

    def __enter__(self) -> _Descriptor:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            self._open = False
            os.close(self.number)

    def release(self) -> int:
        """Leave it open; return it."""
        self._open = False
        return self.number


class _Opened:
    """The descriptors of one start: all are closed here at its end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._held: dict[int, _Descriptor] = {}

    def closing(self, descriptor: int) -> int:
        self._held[descriptor] = self._stack.enter_context(_Descriptor(descriptor))
        return descriptor

    def all_of(self, descriptors: dict[str, int]) -> dict[str, int]:
        return {name: self.closing(descriptor) for name, descriptor in descriptors.items()}

    def close_writer(self, descriptor: int) -> None:
        """Close one at once, so that its pipe ends with the child's copy."""
        self._held[descriptor].__exit__()


def _give(descriptor: int, owner: int | None) -> None:
    """Make the session's user own its end, so that it may be opened again by name (``/dev/stdout``, ``/dev/tty``)."""
    with suppress(PermissionError):  # the gateway is not root, so it is that user already
        os.fchown(descriptor, -1 if owner is None else owner, -1)


def _read_report(reader: int) -> str:
    """Read the child's report until the program runs, which closes its end.

    Raises TimeoutError, with what was reported, if it never does.
    """
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    text, deadline = bytearray(), time.monotonic() + START_TIMEOUT
    while len(text) < REPORT_LIMIT:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError(text.decode("utf-8", "surrogateescape"))
        data = os.read(reader, REPORT_LIMIT)
        if not data:
            break
        text += data
    return text.decode("utf-8", "surrogateescape")
