"""A running container as the host sees it: its first process, that one's namespaces, and its files.

Owns the descriptor of /proc/PID, taken once: after that process ends every use fails, even when its pid is used again.
Files are opened with openat2(2), which resolves every symbolic link inside the container's root (RESOLVE_IN_ROOT,
Linux 5.6). Needs the privilege to look into the process; raises PermissionError without it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

SYS_OPENAT2 = 437
"""The system call's number, the same on every architecture (it is newer than their split)."""
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10
LIMIT = 1024 * 1024
"""Bytes read of a file: /etc/passwd of the largest images has some 100 KB."""

PF_EXITING = 0x4
"""include/linux/sched.h"""

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class HostContainer:
    """The container whose first process has the pid ``pid`` on this host. Any thread."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._proc = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.close(self.open_root())  # fails now, not at the first login, without the privilege

    def open_root(self) -> int:
        """Return a descriptor of the container's root directory."""
        return os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._proc)

    def open_namespaces(self, kinds: Sequence[str]) -> dict[str, int]:
        """Return descriptors of those namespaces (``mnt``, ``net``, …; namespaces(7)) that are not ours too."""
        found = {}
        for kind in kinds:
            if os.stat(f"ns/{kind}", dir_fd=self._proc).st_ino != os.stat(f"/proc/self/ns/{kind}").st_ino:
                found[kind] = os.open(f"ns/{kind}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        return found

    def status(self, field: str) -> str:
        """Return a field of /proc/PID/status (proc(5)), e.g. ``CapBnd``; "" when it has none of that name."""
        with open(os.open("status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc), encoding="utf-8") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name == field:
                    return value.strip()
        return ""

    def has_ended(self) -> bool:
        """Say whether the first process has exited or is about to: the kernel then kills the rest of the container."""
        try:
            facts = self.read_process("stat").decode("utf-8", "replace")
        except OSError:
            return True
        # The command's name may hold spaces and parentheses; of the fields behind it the seventh is the flags.
        return bool(int(facts[facts.rindex(")") + 2 :].split()[6]) & PF_EXITING)

    def open_process(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Return a descriptor of an entry of /proc/PID (proc(5)), e.g. ``cwd`` or ``environ``."""
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=self._proc)

    def read_process(self, name: str) -> bytes:
        """Return all of a file in /proc/PID."""
        with open(self.open_process(name), "rb") as file:
            return file.read()

    def root_path(self) -> str:
        """Return the first process's root as a path in its mount namespace: "/" but for one that was chrooted."""
        return os.readlink("root", dir_fd=self._proc)

    def working_directory(self) -> str:
        """Return where the first process is now, as a path inside the container."""
        return os.readlink("cwd", dir_fd=self._proc)

    def groups_outside(self, groups: Sequence[int]) -> list[int]:
        """Return what this host calls groups of the container's user namespace (user_namespaces(7))."""
        found = []
        for line in self.read_process("gid_map").decode("ascii").splitlines():
            inside, outside, count = (int(word) for word in line.split())
            found += [outside + group - inside for group in groups if inside <= group < inside + count]
        return found

    def bounding_capabilities(self) -> int:
        """Return the capabilities (a bit mask, capabilities(7)) that root may have in this container."""
        return int(self.status("CapBnd"), 16)

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
        """Return the beginning of a text file, or "" where the container has none."""
        try:
            descriptor = self.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return ""
        with open(descriptor, "rb") as file:
            return file.read(LIMIT).decode("utf-8", "replace")

    def exists(self, path: str) -> bool:
        """Say whether ``path``, followed through its links, is there."""
        try:
            os.close(self.open(path, os.O_PATH))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def close(self) -> None:
        """Let go of the container."""
        os.close(self._proc)
