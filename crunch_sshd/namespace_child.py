"""What becomes a session's program: a fresh, single-threaded process that turns into a copy of the contained one.

Owns the order in which control groups, namespaces, root and privileges are taken on; the runtime ``namespace`` opens
all that is needed and describes it in a job (:func:`load`). Nothing may be imported after the namespaces are entered,
as in :mod:`crunch_sshd.enter`, and little before: each session waits for it.

The program must be born in the container's pid namespace, so this process forks once more; the second one is made a
child of the gateway itself (CLONE_PARENT, as runc has it), so that the exact exit status comes to the gateway and no
process stays in between.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import marshal
import os
import resource
import signal
import sys
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

NAMESPACES = {
    "cgroup": 0x02000000, "ipc": 0x08000000, "uts": 0x04000000, "net": 0x40000000, "pid": 0x20000000,
    "mnt": 0x00020000, "user": 0x10000000,
}  # fmt: skip
"""The clone(2) flags for setns(2)."""
SYS_CLONE3 = 435
"""The system call's number, the same on every architecture (it is newer than their split)."""
CLONE_PARENT = 0x00008000
CLONE_ARGUMENTS = 8
"""64-bit words of struct clone_args in its first version (clone(2)); the first is the flags."""
SYS_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "loongarch64": 219, "ppc64le": 271, "s390x": 280}
KEYCTL_JOIN_SESSION_KEYRING = 1
PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 8, 24, 38, 47
PR_CAP_AMBIENT_RAISE = 2
CAPABILITY_VERSION = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 of capset(2)."""
LAST_CAPABILITY = 63
NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""The exit statuses that a shell gives (POSIX, 2.8.2)."""
DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

libc = ctypes.PyDLL(None, use_errno=True)
"""Keeps the interpreter's lock during a call: there is no other thread, and the fork below copies the lock's state."""


class Refused(Exception):
    """Something could not be taken on; the arguments are an exit status and a text for the user."""


def load() -> dict[str, Any]:
    """Return the job, whose descriptor is the only argument, and have none of its descriptors inherited any further."""
    with open(int(sys.argv[1]), "rb") as file:
        job: dict[str, Any] = marshal.loads(file.read())  # noqa: S302 - written by the gateway, into memory of its own
    for descriptor in job["descriptors"]:
        os.set_inheritable(descriptor, False)
    return job


def main() -> NoReturn:
    """Do the job; tell the report's pipe the program's pid, and then nothing, or why it could not be started."""
    job = load()
    try:
        _check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "hide from debuggers")
        _stay_within(job)
        _join(job["namespaces"])
        pid = _fork_as_sibling()
        if pid:
            os.write(job["report"], b"pid %d\n" % pid)
            os._exit(0)
        _become(job)
        _execute(job)
    except Refused as refusal:
        status, text = refusal.args
        _fail(job, status, text)
    except OSError as error:
        _fail(job, NOT_EXECUTABLE, str(error.args[1]))


def _fail(job: dict[str, Any], status: int, text: str) -> NoReturn:
    os.write(job["report"], f"failed {status} {text}\n".encode("utf-8", "surrogateescape"))
    os._exit(status)


# In the gateway's namespaces.


def _stay_within(job: dict[str, Any]) -> None:
    """Take on what the privileges of the gateway are needed for: control groups, limits, supplementary groups."""
    for descriptor in job["cgroups"]:
        os.write(descriptor, b"0")
    for number, _, hard in job["limits"]:
        _limit(number, hard, hard)
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(job["oom_score_adj"]))
    except PermissionError:
        pass  # ours is higher, and lowering it takes a privilege: the session is then the first to go, which is less
    try:
        os.setgroups(job["groups"])
    except PermissionError:
        if set(os.getgroups()) != set(job["groups"]):
            reason = "the gateway may not take on the container's groups; start it as root"
            raise Refused(NOT_EXECUTABLE, reason) from None
    _leave_keyring()


def _leave_keyring() -> None:
    """Have a session keyring of our own (keyrings(7)): the gateway's is none of the container's business."""
    number = SYS_KEYCTL.get(os.uname().machine)
    if number is None:
        raise Refused(NOT_EXECUTABLE, f"the runtime namespace does not know the processor {os.uname().machine}")
    if libc.syscall(number, KEYCTL_JOIN_SESSION_KEYRING, None) < 0 and ctypes.get_errno() != errno.ENOSYS:
        _check(-1, "leave the gateway's keyring")


def _limit(number: int, soft: int, hard: int) -> None:
    """Set a resource limit; where raising it takes a privilege that is not there, as far as it goes."""
    try:
        resource.setrlimit(number, (soft, hard))
    except (ValueError, PermissionError):
        highest = resource.getrlimit(number)[1]
        resource.setrlimit(number, (_lower(soft, highest), _lower(hard, highest)))


def _lower(one: int, other: int) -> int:
    """Return the lower of two limits; -1 is no limit."""
    return max(one, other) if -1 in (one, other) else min(one, other)


def _join(namespaces: dict[str, int]) -> None:
    """Enter the namespaces: each with our own privileges if they suffice, else with those of the user namespace."""
    refused = [kind for kind in NAMESPACES if kind in namespaces and not _joined(kind, namespaces[kind])]
    for kind in refused:
        _joined(kind, namespaces[kind], last=True)


def _joined(kind: str, descriptor: int, *, last: bool = False) -> bool:
    result = libc.setns(descriptor, NAMESPACES[kind])
    if result != 0 and ctypes.get_errno() == errno.EPERM and not last and kind != "user":
        return False
    _check(result, f"enter the {kind} namespace")
    return True


def _fork_as_sibling() -> int:
    """Fork a child of our own parent; return its pid, or 0 in it."""
    arguments = (ctypes.c_uint64 * CLONE_ARGUMENTS)(CLONE_PARENT)
    pid = libc.syscall(SYS_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))
    if pid < 0:
        _check(-1, "start a process")
    return int(pid)


# In the container's.


def _become(job: dict[str, Any]) -> None:
    os.setsid()
    if job["terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.fchdir(job["root"])
    os.chroot(".")
    os.fchdir(job["cwd"])
    for number, soft, hard in job["limits"]:
        _limit(number, soft, hard)
    os.umask(job["umask"])
    _take_on_privileges(job)
    for name in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(name) is not None:
            signal.signal(name, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _take_on_privileges(job: dict[str, Any]) -> None:
    """Be the user, with the contained process's five sets of capabilities; the text is in capabilities(7)."""
    sets, uid, gid = job["capabilities"], job["uid"], job["gid"]
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
    if job["no_new_privs"]:
        _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "give up gaining privileges")


def _set_capabilities(*sets: int) -> None:
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    words = [one >> shift & 0xFFFFFFFF for shift in (0, 32) for one in sets]
    data = (ctypes.c_uint32 * 6)(*words)
    _check(libc.capset(ctypes.byref(header), ctypes.byref(data)), "take on the container's capabilities")


def _execute(job: dict[str, Any]) -> NoReturn:
    argv, environment = job["argv"], job["environment"]
    if job["directory"] is not None:
        try:
            os.chdir(job["directory"])
        except OSError as error:
            raise Refused(NOT_FOUND, f"{os.fsdecode(job['directory'])}: {error.strerror}") from error
    name: bytes = argv[0]
    failure: int | None = errno.ENOENT
    for path in [name] if b"/" in name else _candidates(name, environment):
        try:
            os.execve(path, argv, environment)  # noqa: S606 - what the user asked for
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = error.errno
    status = NOT_FOUND if failure == errno.ENOENT else NOT_EXECUTABLE
    raise Refused(status, f"{os.fsdecode(name)}: {os.strerror(failure or 0)}")


def _candidates(name: bytes, environment: dict[bytes, bytes]) -> list[bytes]:
    directories = environment.get(b"PATH", DEFAULT_PATH).split(b":")
    return [(directory or b".") + b"/" + name for directory in directories] if name else []


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {what}: {os.strerror(number)}")
