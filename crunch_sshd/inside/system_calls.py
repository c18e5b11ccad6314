"""The system calls that each process inside a container may still make once it has entered: allow-lists.

They are a second wall, behind the restrictions on the container's own processes: an attacker who takes over the Python
of the file server or of the broker can start no program, trace nothing, mount nothing and load no code, and in the
file server can open no socket. Neither process can signal anything: they are not in the container's pid namespace, so
any pid they name is the host's. Written in the form of the OCI runtime-spec's ``linux.seccomp``, for
:mod:`crunch_sshd.runtimes.seccomp` to compile. Any call not allowed fails with ENOSYS, so that the C library falls
back where it can (from ``clone3`` to ``clone``, whose flags a filter can see). Pure data.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import termios
from collections.abc import Sequence
from typing import Any

Profile = dict[str, Any]

PROT_EXEC = 0x4
CLONE_THREAD = 0x00010000
SIOCGIFINDEX = 0x8933
"""Returns an interface's number by name (netdevice(7)), for an IPv6 address with a zone."""
SOCKET_KIND = 0xF
"""The bits of socket(2)'s type that are not flags."""

BASIC = (
    # memory, except for code
    "brk", "munmap", "mremap", "madvise", "mlock",
    # threads, signals, time, the end
    "futex", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "sched_yield", "restart_syscall",
    "clock_gettime", "clock_nanosleep", "clock_getres", "gettimeofday", "nanosleep", "time", "getrandom",
    "set_robust_list", "rseq", "membarrier", "exit", "exit_group",
    "getpid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getgroups", "umask", "sysinfo", "uname",
    "getrlimit",
    # descriptors
    "read", "write", "readv", "writev", "close", "close_range", "dup", "dup2", "dup3", "lseek", "pipe2",
    "poll", "ppoll", "select", "pselect6", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait",
    # looking at files
    "open", "openat", "openat2", "stat", "lstat", "fstat", "newfstatat", "fstatat64", "statx", "access", "faccessat",
    "faccessat2", "readlink", "readlinkat", "getdents64", "getcwd", "chdir", "fchdir",
    # the container's own filter comes after this one
    "seccomp",
)  # fmt: skip
FILES = (
    "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2", "sendfile", "copy_file_range", "splice",
    "truncate", "ftruncate", "fallocate", "fsync", "fdatasync", "sync_file_range", "fadvise64", "flock",
    "statfs", "fstatfs", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2",
    "link", "linkat", "symlink", "symlinkat", "chmod", "fchmod", "fchmodat", "fchmodat2",
    "chown", "lchown", "fchown", "fchownat", "utimensat", "utimes", "futimesat",
)  # fmt: skip
SOCKETS = (
    "bind", "connect", "listen", "getsockname", "getpeername", "getsockopt", "setsockopt", "shutdown",
    "sendto", "recvfrom", "sendmsg", "recvmsg", "sendmmsg", "recvmmsg",
    "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "chmod", "fchmodat", "fchmodat2",
)  # fmt: skip
FCNTLS = (
    fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL,
)  # fmt: skip
"""Not F_SETOWN and F_SETSIG, by which a descriptor sends any signal to any process of the same user. Like tgkill, which
is not allowed either, they would reach the host's: these processes are not in the container's pid namespace."""
IOCTLS = (termios.TCGETS, termios.FIONBIO, termios.FIOCLEX, termios.FIONCLEX)


def _allowed(names: Sequence[str], *conditions: tuple[int, str, int, int]) -> dict[str, Any]:
    args = [{"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": second}
            for index, op, value, second in conditions]  # fmt: skip
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", "args": args}


def _profile(names: Sequence[str], ioctls: Sequence[int], *more: dict[str, Any]) -> Profile:
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "syscalls": [
            _allowed(names),
            _allowed(("mmap", "mmap2", "mprotect"), (2, "MASKED_EQ", PROT_EXEC, 0)),
            _allowed(("prlimit64",), (2, "EQ", 0, 0)),  # looking only
            *(_allowed(("fcntl", "fcntl64"), (1, "EQ", number, 0)) for number in FCNTLS),
            *(_allowed(("ioctl",), (1, "EQ", number, 0)) for number in ioctls),
            *more,
        ],
    }


FILE_SERVER = _profile((*BASIC, *FILES), IOCTLS)
"""No socket, no process, no thread."""
BROKER = _profile(
    (*BASIC, *SOCKETS),
    (*IOCTLS, SIOCGIFINDEX),
    _allowed(("clone",), (0, "MASKED_EQ", CLONE_THREAD, CLONE_THREAD)),
    *(
        _allowed(("socket",), (0, "EQ", family, 0), (1, "MASKED_EQ", SOCKET_KIND, kind))
        for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    ),
)
"""Threads, and sockets of three families, none of them raw; only the file calls that a unix socket's path needs."""
