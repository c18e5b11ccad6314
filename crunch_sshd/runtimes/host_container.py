"""A running container as the host sees it: its first process, that process's namespaces, and its files.

Owns the descriptor of /proc/PID, taken once: after that process ends every use fails, even when its pid is used again;
and the one way in which the gateway reads files of a container (:meth:`HostContainer.read_text`). Files are found with
openat2(2), which resolves every symbolic link inside the container's root (RESOLVE_IN_ROOT, Linux 5.6). Needs the
privilege to look into the process; raises PermissionError without it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import stat
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from arv_ssh.errors import Unavailable
from crunch_sshd.runtimes import confinement, control_groups, directories
from crunch_sshd.runtimes.confinement import CAPABILITY_SETS, Confinement, Limit
from crunch_sshd.runtimes.control_groups import Doors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crunch_sshd.runtimes import Account
    from crunch_sshd.runtimes.bundle import Bundle

SYS_OPENAT2 = 437
"""The system call's number, the same on every architecture (it is newer than their split)."""
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10
LIMIT = 1024 * 1024
"""Bytes read from a file: the /etc/passwd of the largest images has some 100 KB."""
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Shortages of this host. Any other failure to open a file is the container's own doing, and counts as no file."""
TRIES = 10
"""Attempts to look up a path that is renamed meanwhile (EAGAIN, openat2(2))."""
SECCOMP_OFF = "0"
LIMITS = {
    "Max cpu time": "CPU", "Max file size": "FSIZE", "Max data size": "DATA", "Max stack size": "STACK",
    "Max core file size": "CORE", "Max resident set": "RSS", "Max processes": "NPROC", "Max open files": "NOFILE",
    "Max locked memory": "MEMLOCK", "Max address space": "AS", "Max pending signals": "SIGPENDING",
    "Max msgqueue size": "MSGQUEUE", "Max nice priority": "NICE", "Max realtime priority": "RTPRIO",
    "Max realtime timeout": "RTTIME",
}  # fmt: skip
"""The names of setrlimit(2)'s limits in /proc/PID/limits. (prlimit(2) would need a privilege that reading does not.)"""
LIMIT_NAME_WIDTH = 26

PF_EXITING = 0x4
"""include/linux/sched.h"""

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class HostContainer:
    """The container whose first process has the pid ``pid`` on this host. Any thread.

    ``bundle`` is the engine's description of it, if this host has one.
    """

    def __init__(self, pid: int, bundle: Bundle | None = None) -> None:
        self.pid = pid
        self.bundle = bundle
        self._proc = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(self.open_root())  # without the privilege, fails now and not at the first login
        except BaseException:
            os.close(self._proc)
            raise

    def open_root(self) -> int:
        """Return a descriptor of the container's root directory."""
        return os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._proc)

    def open_namespaces(self, kinds: Sequence[str]) -> dict[str, int]:
        """Return descriptors of those namespaces (``mnt``, ``net``, …; namespaces(7)) that are not ours too."""
        found: dict[str, int] = {}
        try:
            for kind in kinds:
                if os.stat(f"ns/{kind}", dir_fd=self._proc).st_ino != os.stat(f"/proc/self/ns/{kind}").st_ino:
                    found[kind] = os.open(f"ns/{kind}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        except BaseException:
            for descriptor in found.values():
                os.close(descriptor)
            raise
        return found

    def status(self, field: str) -> str:
        """Return a field of /proc/PID/status (proc(5)), e.g. ``CapBnd``; "" if there is no such field."""
        with open(os.open("status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc), encoding="utf-8") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name == field:
                    return value.strip()
        return ""

    def has_ended(self) -> bool:
        """Say whether the first process has exited or is about to: the kernel then kills the rest of the container."""
        try:
            facts = _fields(self.read_process("stat"))
        except OSError:
            return True
        return bool(int(facts[6]) & PF_EXITING)

    def open_process(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Return a descriptor of an entry of /proc/PID (proc(5)), e.g. ``cwd`` or ``environ``."""
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=self._proc)

    def read_process(self, name: str) -> bytes:
        """Return all of a file in /proc/PID."""
        with open(self.open_process(name), "rb") as file:
            return file.read()

    def root_path(self) -> str:
        """Return the first process's root as a path in its mount namespace: "/" unless it was chrooted."""
        return os.readlink("root", dir_fd=self._proc)

    def working_directory(self) -> str:
        """Return where the first process is now, as a path inside the container."""
        return os.readlink("cwd", dir_fd=self._proc)

    def obstacle(self, directory: str, account: Account) -> str:
        """Return why ``account`` cannot work in a directory, in the kernel's words; "" if it can or nobody knows."""
        return directories.obstacle(self, directory, account)

    def open_pidfd(self) -> int:
        """Return a descriptor that is readable once the first process has ended (pidfd_open(2))."""
        descriptor = os.pidfd_open(self.pid)
        try:
            os.stat("stat", dir_fd=self._proc)  # fails if the pid is already another process's
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def open_doors(self) -> Doors:
        """Return the way into each control group of the container that is not ours too (cgroups(7)).

        Raises :class:`Unavailable` when one of them cannot be joined, or when the container is paused: a process that
        joined would stop with it, and could not even be killed.
        """
        return control_groups.open_doors(self._other_control_groups())

    def _other_control_groups(self) -> dict[str, str]:
        with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
            ours = control_groups.memberships(file.read())
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            mounted = control_groups.mounts(file.read())
        theirs = control_groups.memberships(self.control_groups())
        if control_groups.is_frozen(theirs, mounted):
            raise Unavailable("the container is paused; unpause it first, then connect again")
        return control_groups.others(theirs, ours, mounted)

    def control_groups(self) -> str:
        """Return the text of /proc/PID/cgroup."""
        return self.read_process("cgroup").decode("utf-8", "replace")

    def limits(self) -> list[Limit]:
        """Return the first process's resource limits."""
        return _limits(self.read_process("limits"))

    def inherited_limits(self) -> list[Limit]:
        """Return the limits that the engine's exec inherits: those of the first process's parent, the engine's monitor.

        The first process may have lowered its own since, which does not concern an exec.
        """
        parent = self._parent()
        try:
            found = _read(f"/proc/{parent}/limits")
        except OSError:
            return self.limits()  # e.g. in a pid namespace of our own
        return _limits(found) if parent > 1 and parent == self._parent() else self.limits()

    def _parent(self) -> int:
        return int(_fields(self.read_process("stat"))[1])

    def out_of_memory_score(self) -> int:
        """Return how readily the kernel kills the first process when memory runs out (oom_score_adj, proc(5))."""
        return int(self.read_process("oom_score_adj"))

    def confinement(self, account: Account) -> Confinement:
        """Return the restrictions that the engine's exec would put on a process of ``account``.

        Raises :class:`Unavailable` when they cannot be known, or cannot be put on another process.
        """
        if self.bundle is None:
            return self._confinement_seen(account)
        process = confinement.without_more_than_bounding(self.bundle.process, account.uid)
        score = process.get("oomScoreAdj")
        return Confinement(
            account.uid,
            account.gid,
            tuple(self.groups_outside(account.groups)),
            confinement.capabilities(process, account.uid),
            process["user"].get("umask", confinement.UMASK),
            confinement.limits(process, self.inherited_limits()),
            self.out_of_memory_score() if score is None else score,
            confinement.label(process),
            self.bundle.filters,
        )

    def _confinement_seen(self, account: Account) -> Confinement:
        """Return the same restrictions, as seen on the first process."""
        if self.status("Seccomp") != SECCOMP_OFF:
            raise Unavailable(
                "the container has a seccomp filter, and the gateway finds no OCI bundle that says which; "
                "start the gateway as root on the host of the container's engine"
            )
        sets = dict.fromkeys(CAPABILITY_SETS, 0) | {"CapBnd": int(self.status("CapBnd"), 16)}
        return Confinement(
            account.uid,
            account.gid,
            tuple(self.groups_outside(account.groups)),
            confinement.after_execve(sets, account.uid),
            confinement.UMASK,
            self.limits(),
            self.out_of_memory_score(),
            self.label(),
        )

    def label(self) -> str:
        """Return the AppArmor profile or SELinux context of the first process; "" where it has none of its own."""
        found = _label(lambda: self.read_process("attr/current"))
        ours = _label(lambda: _read("/proc/self/attr/current"))
        return "" if found in (ours, confinement.UNCONFINED) else found

    def groups_outside(self, groups: Sequence[int]) -> list[int]:
        """Return this host's ids for groups of the container's user namespace (user_namespaces(7))."""
        return self._ids_outside("gid_map", groups)

    def user_outside(self, uid: int) -> int | None:
        """Return this host's id for a user of the container's user namespace; None if it has none."""
        return next(iter(self._ids_outside("uid_map", [uid])), None)

    def _ids_outside(self, id_map: str, ids: Sequence[int]) -> list[int]:
        found = []
        for line in self.read_process(id_map).decode("ascii").splitlines():
            inside, outside, count = (int(word) for word in line.split())
            found += [outside + one - inside for one in ids if inside <= one < inside + count]
        return found

    def open(self, path: str, flags: int) -> int:
        """Open ``path`` as the container would see it; return a descriptor. Raises OSError as open(2) does."""
        root = self.open_root()
        try:
            how = _OpenHow(flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
            found = _libc.syscall(SYS_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
            if found < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), path)
            return int(found)
        finally:
            os.close(root)

    def read_text(self, path: str) -> str:
        """Return the beginning of a regular file as text, without waiting; "" where the container has no such file.

        Only regular files are ever opened: merely opening some devices has an effect, and the container chooses what
        is at the end of a pipe. Nor are the kernel's own files, such as /proc/kmsg: reading it takes what it gives
        from the host's log. Invalid UTF-8 is replaced.
        """
        with self._found(path) as place:
            if place is None or not _holds_data(os.fstat(place)):
                return ""
            try:
                with open(os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                    return (file.read(LIMIT) or b"").decode("utf-8", "replace")
            except OSError as error:
                _raise_shortage(error)
                return ""

    def is_program(self, path: str) -> bool:
        """Say whether ``path``, followed through its links, is a file that somebody may execute, as sshd asks."""
        with self._found(path) as place:
            return place is not None and is_executable(os.fstat(place).st_mode)

    @contextmanager
    def _found(self, path: str) -> Iterator[int | None]:
        """Yield a descriptor that names ``path`` (O_PATH) and opens nothing; None where the container has none."""
        descriptor = None
        for _ in range(TRIES):
            try:
                descriptor = self.open(path, os.O_PATH)
            except OSError as error:
                _raise_shortage(error)
                if error.errno == errno.EAGAIN:
                    continue
            break
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def close(self) -> None:
        """Let go of the container."""
        os.close(self._proc)


def is_executable(mode: int) -> bool:
    """Say whether a file's mode (inode(7)) is that of a program."""
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def _holds_data(facts: os.stat_result) -> bool:
    """Say whether this is a regular file with data; the kernel's own (proc(5)) have a size of 0."""
    return stat.S_ISREG(facts.st_mode) and facts.st_size > 0


def _raise_shortage(error: OSError) -> None:
    if error.errno in SHORTAGES:
        raise Unavailable(f"the gateway cannot look into the container: {error.strerror}") from error


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _fields(stat_line: bytes) -> list[bytes]:
    """Return the fields of /proc/PID/stat from the third on; the second, a name, may hold spaces and parentheses."""
    return stat_line[stat_line.rindex(b")") + 2 :].split()


def _limits(text: bytes) -> list[Limit]:
    """Return the limits in the text of /proc/PID/limits."""
    found = []
    for line in text.decode("ascii", "replace").splitlines()[1:]:
        name = LIMITS.get(line[:LIMIT_NAME_WIDTH].strip())
        if name is not None:
            soft, hard = (-1 if word == "unlimited" else int(word) for word in line[LIMIT_NAME_WIDTH:].split()[:2])
            found.append((getattr(resource, f"RLIMIT_{name}"), soft, hard))
    return found


def _label(read: Callable[[], bytes]) -> str:
    """Return a security label without its mode: AppArmor says ``profile (enforce)``."""
    try:
        text = read().decode("utf-8", "replace").strip("\0\n")
    except OSError:
        return ""  # a kernel without any such module
    return text.partition(" (")[0]
