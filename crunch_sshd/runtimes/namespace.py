"""The runtime for a container that no engine knows, given the pid of its program (Apptainer, Singularity, bubblewrap).

Owns what the gateway opens for a session: the contained process's namespaces, root, control groups, terminal and
pipes. :mod:`crunch_sshd.runtimes.contained` decides who the session then is; the child decides how it gets there
(:mod:`crunch_sshd.inside.namespace_child`).

Needs root on the container's host, or, for a container in a user namespace, to be the user who created it.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import shutil
import signal
import stat
import struct
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

from arv_ssh.errors import ConfigError, Forbidden, Unavailable
from crunch_sshd.inside.start import start
from crunch_sshd.runtimes import (
    Account,
    Command,
    Output,
    Process,
    Runtime,
    StartFailed,
    Terminal,
    accounts,
    host_processes,
    terminal_modes,
    terminal_name,
)
from crunch_sshd.runtimes.contained import Contained, ContainedProcess
from crunch_sshd.runtimes.host_container import HostContainer
from crunch_sshd.runtimes.host_process import PIPE_SIZE, HostProcess

CHILD = "crunch_sshd.inside.namespace_child"
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


class NamespaceRuntime(Runtime):
    """Executes beside the contained process ``pid``, as that process; users know the container as ``name``.

    Raises :class:`ConfigError`, saying why, when that is impossible.
    """

    def __init__(self, pid: int, name: str) -> None:
        self._name = name
        try:
            self._contained = ContainedProcess(pid, name)
            self._contained.credentials()
        except (FileNotFoundError, ProcessLookupError) as error:
            raise ConfigError(f"there is no process {pid} here for container {name}; give --pid the pid of its program "
                              "on this host") from error  # fmt: skip
        except PermissionError as error:
            raise ConfigError(f"the namespaces of process {pid} of container {name} may not be entered; start the "
                              "gateway as root, or as the user who made the container") from error  # fmt: skip
        except Unavailable as error:
            raise ConfigError(str(error)) from error
        self._program = _sealed_copy(sys.executable)

    def host(self) -> HostContainer:
        return self._contained

    def account(self, login_username: str) -> Account:
        own = self._credentials().inside
        passwd, group_file = (self._contained.read_text(f"/etc/{name}") for name in ("passwd", "group"))
        account = accounts.find(passwd, group_file, str(own.uid), self._name, login_username)
        other_group = bool(login_username.partition(":")[2]) and account.gid != own.gid
        if account.uid != own.uid or other_group:
            raise Forbidden(
                f"container {self._name} runs as the user {own.uid}:{own.gid}, and only that one can log in, not "
                f"{login_username!r}; log in as _@{self._name}"
            )
        account = accounts.with_ids(account, own.uid, own.gid, own.groups)
        account = accounts.with_home(account, self._environment())
        return accounts.with_shell(account, self._contained.is_program)

    def _environment(self) -> dict[str, str]:
        try:
            found = self._contained.environment()
        except OSError as error:
            raise self._unavailable(error) from error
        return {os.fsdecode(name): os.fsdecode(value) for name, value in found.items()}

    def _credentials(self) -> Contained:
        try:
            return self._contained.credentials()
        except OSError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> Unavailable:
        if isinstance(error, FileNotFoundError | ProcessLookupError):
            return Unavailable(f"container {self._name} has ended")
        return Unavailable(f"container {self._name} cannot be entered: {error.strerror}")

    def start(self, command: Command) -> Process:
        credentials = self._credentials()
        try:
            with ExitStack() as stack:
                opened = _Opened(stack)
                job = self._describe(command, credentials, opened)
                if command.terminal is None:
                    return self._start_with_pipes(job, credentials, opened)
                return self._start_with_terminal(job, credentials, command.terminal, opened)
        except OSError as error:
            raise self._unavailable(error) from error

    def _describe(self, command: Command, credentials: Contained, opened: _Opened) -> dict[str, Any]:
        """Return the job for the child, except for the descriptors of this one session."""
        contained, inside = self._contained, credentials.inside
        own = contained.environment()
        own.pop(b"SHLVL", None)  # of the shell that started the contained process; a session's is none of its children
        wanted = {os.fsencode(name): os.fsencode(value) for name, value in command.environment.items()}
        return {
            "argv": [os.fsencode(word) for word in command.argv],
            "environment": own | wanted,
            "directory": None if command.directory is None else os.fsencode(command.directory),
            "terminal": command.terminal is not None,
            "uid": inside.uid,
            "gid": inside.gid,
            "groups": list(credentials.outside.groups),
            "capabilities": contained.capabilities(inside.uid),
            "no_new_privs": credentials.no_new_privs,
            "umask": credentials.umask,
            "limits": contained.limits(),
            "oom_score_adj": contained.out_of_memory_score(),
            "namespaces": opened.all_of(contained.open_namespaces(NAMESPACES)),
            "root": opened.one(contained.open_root()),
            "cwd": opened.one(contained.open_process("cwd", os.O_PATH | os.O_DIRECTORY)),
        }

    def _start_with_pipes(self, job: dict[str, Any], credentials: Contained, opened: _Opened) -> Process:
        ours = ExitStack()
        with ours:
            theirs, kept = [], []
            for reading in (True, False, False):
                reader, writer = os.pipe()
                theirs.append(opened.closing(reader if reading else writer))
                kept.append(ours.enter_context(_Descriptor(writer if reading else reader)).number)
                fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
                _give(theirs[-1], credentials)
            pid = self._launch(job, opened, *theirs)
            ours.pop_all()
        outputs = {kept[1]: Output.STDOUT, kept[2]: Output.STDERR}
        return HostProcess(pid, kept[0], outputs, lambda: self._hang_up(pid), tty=False, identity=self._identity())

    def _start_with_terminal(
        self, job: dict[str, Any], credentials: Contained, terminal: Terminal, opened: _Opened
    ) -> Process:
        with ExitStack() as ours:
            master, slave, name = self._open_terminal()
            ours.enter_context(_Descriptor(master))
            opened.closing(slave)
            _give(slave, credentials)
            terminal_modes.apply(master, terminal.modes)
            terminal_modes.resize(master, terminal)
            if name:
                job["environment"][os.fsencode(terminal_name.VARIABLE)] = os.fsencode(name)
            pid = self._launch(job, opened, slave, slave, slave)
            ours.pop_all()
        outputs = {master: Output.STDOUT}
        return HostProcess(pid, master, outputs, lambda: self._hang_up(pid), tty=True, identity=self._identity())

    def _open_terminal(self) -> tuple[int, int, str]:
        """Return both ends of a new terminal, and its name in the container if it is the container's own, else ""."""
        found = self._open_ptmx()
        if found is None:
            return *os.openpty(), ""
        with _Descriptor(found) as master:
            fcntl.ioctl(master.number, TIOCSPTLCK, struct.pack("i", 0))
            slave = fcntl.ioctl(master.number, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            number = struct.unpack("I", fcntl.ioctl(found, TIOCGPTN, bytes(4)))[0]
            return master.release(), slave, f"/dev/pts/{number}"

    def _open_ptmx(self) -> int | None:
        try:
            found = self._contained.open("/dev/ptmx", os.O_PATH)
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

    def _launch(self, job: dict[str, Any], opened: _Opened, stdin: int, stdout: int, stderr: int) -> int:
        """Start the child; return the pid of the program once it runs, a child of this process."""
        reader, writer = (opened.closing(descriptor) for descriptor in os.pipe())
        program = opened.one(os.dup(self._program))
        job = job | {"report": opened.pass_on(writer), "descriptors": list(opened.passed)}
        groups = [opened.closing(descriptor) for descriptor in self._contained.open_control_groups()]
        child = start(
            CHILD, job, control_groups=groups, executable=f"/proc/self/fd/{program}",
            stdin=stdin, stdout=stdout, stderr=stderr,
        )  # fmt: skip
        opened.close_writer(writer)
        try:
            report = _read_report(reader)
        except TimeoutError as late:
            child.kill()
            self._abandon(_pid(str(late)))
            raise Unavailable(f"container {self._name} did not start the program within {START_TIMEOUT:g} s; is it "
                              "frozen?") from None  # fmt: skip
        finally:
            # It ends right after its report, unless it is frozen with its container.
            threading.Thread(target=child.wait, name="start", daemon=True).start()
        return self._started(report)

    def _started(self, report: str) -> int:
        pid = _pid(report)
        failure = next(filter(None, map(REPORTED_FAILURE.fullmatch, report.splitlines())), None)
        if failure is not None:
            if pid is not None:
                os.waitpid(pid, 0)
            raise StartFailed(failure[2], int(failure[1]))
        if pid is None:
            raise Unavailable(f"container {self._name} ended the session's program before it started; is it out of "
                              "memory?")  # fmt: skip
        return pid

    def _abandon(self, pid: int | None) -> None:
        """End a child of ours that has not become the program, since somebody inside stopped it; leave no zombie."""
        if pid is not None and self._identity().covers(pid):
            os.kill(pid, signal.SIGKILL)
            threading.Thread(target=os.waitpid, args=(pid, 0), name="start", daemon=True).start()

    def _hang_up(self, pid: int) -> None:
        try:
            identity = self._identity()
        except OSError:
            return  # the container has ended, and the session with it
        host_processes.hang_up(pid, identity, host_processes.kill)

    def _identity(self) -> host_processes.ContainerIdentity:
        groups, contained = self._contained.control_groups(), self._contained.pid
        return host_processes.ContainerIdentity(groups, host_processes.pid_namespace(contained))


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
    """The descriptors of one start: all are closed here at its end, and some are passed on to the child."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._held: dict[int, _Descriptor] = {}
        self.passed: list[int] = []

    def closing(self, descriptor: int) -> int:
        self._held[descriptor] = self._stack.enter_context(_Descriptor(descriptor))
        return descriptor

    def pass_on(self, descriptor: int) -> int:
        self.passed.append(descriptor)
        return descriptor

    def one(self, descriptor: int) -> int:
        return self.pass_on(self.closing(descriptor))

    def all_of(self, descriptors: dict[str, int]) -> dict[str, int]:
        return {name: self.one(descriptor) for name, descriptor in descriptors.items()}

    def close_writer(self, descriptor: int) -> None:
        """Close one at once, so that its pipe ends with the child's copy."""
        self._held[descriptor].__exit__()


def _give(descriptor: int, credentials: Contained) -> None:
    """Make the session's user own its end, so that it may be opened again by name (``/dev/stdout``, ``/dev/tty``)."""
    try:
        os.fchown(descriptor, credentials.outside.uid, -1)
    except PermissionError:
        pass  # the gateway is not root, so it is that user already


def _sealed_copy(path: str) -> int:
    """Return the program ``path`` in memory, where it can no longer be written to.

    The file that a child executes stays within the container's reach as /proc/PID/exe, also for a container that
    executes that very file; a container's root could overwrite the host's own (CVE-2019-5736).
    """
    descriptor = os.memfd_create("python", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(path, "rb") as source, open(os.dup(descriptor), "wb") as copy:
        shutil.copyfileobj(source, copy, 1024 * 1024)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def _pid(report: str) -> int | None:
    """Return the pid of the program to be, once the child has reported it.

    Who can trace the program before it starts can write to the report as well: only a child of ours is believed.
    """
    found = next(filter(None, map(REPORTED_PID.fullmatch, report.splitlines())), None)
    try:
        if found is not None:
            os.waitid(os.P_PID, int(found[1]), os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:
        return None
    return int(found[1]) if found else None


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
