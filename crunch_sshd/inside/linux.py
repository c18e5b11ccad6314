"""The Linux system calls that a process needs to enter a container and that Python has no function for.

Owns their numbers and constants, and turns failures into OSError with a sentence. Knows no policy: the caller decides
who gets which right. Single-threaded processes only; imports as little as it can, since each session waits for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAMESPACES = {
    "cgroup": 0x02000000, "ipc": 0x08000000, "uts": 0x04000000, "net": 0x40000000, "pid": 0x20000000,
    "mnt": 0x00020000, "user": 0x10000000,
}  # fmt: skip
"""The clone(2) flags for setns(2), in the order of entering."""


CLONE_PARENT = 0x00008000
SYS_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "loongarch64": 220, "ppc64le": 120, "s390x": 120}
"""Not clone3: the filters of many containers refuse it, since no filter can see its flags."""
CLONE_INTO_CGROUP = 0x200000000
SYS_CLONE3 = 435
"""The same on every architecture; only for who is under no filter yet."""
SYS_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "loongarch64": 219, "ppc64le": 271, "s390x": 280}
SYS_SECCOMP = {"x86_64": 317, "aarch64": 277, "riscv64": 277, "loongarch64": 277, "ppc64le": 358, "s390x": 348}
KEYCTL_JOIN_SESSION_KEYRING = 1
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_INSTRUCTION = 8
"""Bytes of a struct sock_filter."""
PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NAME = 4, 8, 15
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 24, 38, 47
PR_CAP_AMBIENT_RAISE = 2
CAPABILITY_VERSION = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 of capset(2)."""
LAST_CAPABILITY = 63
FIRST_AFTER_STDERR = 3
OPEN_MAX = os.sysconf("SC_OPEN_MAX")
"""Descriptors are lower than this; as it was at the beginning, for a container's own limit does not close them."""

libc = ctypes.PyDLL(None, use_errno=True)
"""Keeps the interpreter's lock during a call: there is no other thread, and a fork copies the lock's state."""


def hide() -> None:
    """Deny debugging and /proc/PID to any process without CAP_SYS_PTRACE (PR_SET_DUMPABLE, prctl(2))."""
    _check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "hide from debuggers")


def forbid_new_privileges() -> None:
    """Give up gaining privileges by executing a program (PR_SET_NO_NEW_PRIVS, prctl(2))."""
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "give up gaining privileges")


def set_name(name: str) -> None:
    """Set the name of this process for ps (PR_SET_NAME, prctl(2)); the kernel cuts it to 15 bytes."""
    _check(libc.prctl(PR_SET_NAME, name.encode(), 0, 0, 0), "take on a name")


def close_all_but(kept: Iterable[int]) -> None:
    """Close every descriptor but the standard streams and ``kept``."""
    first = FIRST_AFTER_STDERR
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, OPEN_MAX)


def leave_keyring() -> None:
    """Switch to a session keyring of our own (keyrings(7)): the container must not have the gateway's."""
    number = _number(SYS_KEYCTL)
    if libc.syscall(number, KEYCTL_JOIN_SESSION_KEYRING, None) < 0 and ctypes.get_errno() != errno.ENOSYS:
        _check(-1, "leave the gateway's keyring")


def set_out_of_memory_score(score: int) -> None:
    """Set oom_score_adj (proc(5)), as far as we may: without CAP_SYS_RESOURCE a higher value stays."""
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:  # as text it would import a codec, for 1 ms
            file.write(b"%d" % score)
    except PermissionError:
        pass  # we are then the first to go when memory runs out, which is less than the container has


def set_limit(number: int, soft: int, hard: int) -> None:
    """Set a resource limit (setrlimit(2)), as far as we may: one that only CAP_SYS_RESOURCE can raise stays lower."""
    try:
        resource.setrlimit(number, (soft, hard))
    except (ValueError, PermissionError):
        highest = resource.getrlimit(number)[1]
        resource.setrlimit(number, (_lower(soft, highest), _lower(hard, highest)))


def _lower(one: int, other: int) -> int:
    """Return the lower of two limits; -1 means no limit."""
    return max(one, other) if -1 in (one, other) else min(one, other)


def join_namespaces(namespaces: Mapping[str, int]) -> None:
    """Enter namespaces by their descriptors: each with our own privileges, else with those of the user namespace."""
    refused = [kind for kind in NAMESPACES if kind in namespaces and not _joined(kind, namespaces[kind])]
    for kind in refused:
        _joined(kind, namespaces[kind], last=True)


def _joined(kind: str, descriptor: int, *, last: bool = False) -> bool:
    result = libc.setns(descriptor, NAMESPACES[kind])
    if result != 0 and ctypes.get_errno() == errno.EPERM and not last and kind != "user":
        return False
    _check(result, f"enter the {kind} namespace")
    return True


class _CloneArgs(ctypes.Structure):
    """struct clone_args (clone(2)); all are 64 bits wide."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in (
        "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid",
        "set_tid_size", "cgroup",
    ))  # fmt: skip


def fork_into(control_group: int) -> int:
    """Do as :func:`fork_as_sibling`, with the child in a control group of version 2, given as its open directory.

    Where the kernel cannot (before Linux 5.7), or the group has no place for a new process, OSError says so.
    """
    wanted = _CloneArgs(flags=CLONE_PARENT | CLONE_INTO_CGROUP, cgroup=control_group)
    pid = libc.syscall(SYS_CLONE3, ctypes.byref(wanted), ctypes.c_size_t(ctypes.sizeof(wanted)))
    if pid < 0:
        _check(-1, "start a process in the control group")
    return int(pid)


def fork_as_sibling() -> int:
    """Fork a child of our own parent; return its pid, or 0 in it."""
    flags, stack = CLONE_PARENT, 0
    words = (stack, flags) if os.uname().machine == "s390x" else (flags, stack)
    pid = libc.syscall(_number(SYS_CLONE), *words, 0, 0, 0)
    if pid < 0:
        _check(-1, "start a process")
    return int(pid)


def become(uid: int, gid: int, sets: Mapping[str, int]) -> None:
    """Take on the ids, and the five sets of capabilities (capabilities(7))."""
    for number in range(LAST_CAPABILITY + 1):
        if not sets["CapBnd"] >> number & 1:
            libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)  # numbers beyond the kernel's last give EINVAL
    _check(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "keep the container's capabilities")
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _set_capabilities(sets["CapEff"], sets["CapPrm"], sets["CapInh"])
    for number in range(LAST_CAPABILITY + 1):
        if sets["CapAmb"] >> number & 1:
            _check(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0), "keep the ambient capabilities")


def _set_capabilities(*sets: int) -> None:
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    words = [one >> shift & 0xFFFFFFFF for shift in (0, 32) for one in sets]
    data = (ctypes.c_uint32 * 6)(*words)
    _check(libc.capset(ctypes.byref(header), ctypes.byref(data)), "take on the container's capabilities")


class _Program(ctypes.Structure):
    """struct sock_fprog (seccomp(2))."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def filter_system_calls(program: bytes, flags: int) -> None:
    """Put a seccomp filter, compiled to BPF, on this process for good (seccomp(2)); ``flags`` as there.

    Needs :func:`forbid_new_privileges`, or CAP_SYS_ADMIN.
    """
    wanted = _Program(len(program) // SECCOMP_INSTRUCTION, program)
    result = libc.syscall(_number(SYS_SECCOMP), SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(wanted))
    _check(result, "take on the seccomp filter")


def open_label() -> int:
    """Return /proc/self/attr/current (proc(5)), opened while /proc is the host's, for :func:`take_label`."""
    try:
        return os.open("/proc/self/attr/current", os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, f"this kernel takes no security label: {error.strerror}") from error


def take_label(descriptor: int, label: str) -> None:
    """Take on an AppArmor profile or an SELinux context now; ``descriptor`` is :func:`open_label`'s.

    SELinux takes the bare context; AppArmor a command (its contexts have no colons).
    """
    text = label if ":" in label else f"changeprofile {label}"
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"cannot take on the security label {label!r}: {error.strerror}") from error


def _number(table: Mapping[str, int]) -> int:
    machine = os.uname().machine
    if machine not in table:
        raise OSError(errno.ENOSYS, f"the gateway does not know the system calls of the processor {machine}")
    return table[machine]


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {what}: {os.strerror(number)}")
