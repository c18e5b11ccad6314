"""Becomes a session's program: a fresh, single-threaded process that turns into a copy of the contained one.

Owns the order in which control groups, namespaces, root and privileges are taken on; the runtime ``namespace`` opens
all that is needed and describes it in a job (:func:`enter.load`). Nothing may be imported after the namespaces are
entered, as in :mod:`crunch_sshd.inside.enter`, and little before: each session waits for it.

The program must be born in the container's pid namespace, so this process forks once more; the second one is made a
child of the gateway itself (CLONE_PARENT, as runc does), so that the exact exit status reaches the gateway and no
process stays in between. Only the second one can be seen, stopped and perhaps traced from inside; so the first gives
up everything that the container does not have.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
import termios

from crunch_sshd.inside import enter, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""The exit statuses that a shell gives (POSIX, 2.8.2)."""
DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Refused(Exception):
    """Something could not be taken on; the arguments are an exit status and a text for the user."""


def main() -> NoReturn:
    """Do the job; write the program's pid to the report's pipe, and then nothing, or why it could not be started."""
    job = enter.load(sys.argv[1])
    try:
        linux.hide()
        enter.stay_within(job)
        linux.join_namespaces(job["namespaces"])
        _become(job)
        pid = linux.fork_as_sibling()
        if pid:
            os.write(job["report"], b"pid %d\n" % pid)
            os._exit(0)
        _lead_session(job)
        _execute(job)
    except Refused as refusal:
        status, text = refusal.args
        _fail(job, status, text)
    except OSError as error:
        _fail(job, NOT_EXECUTABLE, str(error.args[1]))


def _fail(job: dict[str, Any], status: int, text: str) -> NoReturn:
    os.write(job["report"], f"failed {status} {text}\n".encode("utf-8", "surrogateescape"))
    os._exit(status)


def _become(job: dict[str, Any]) -> None:
    """Take on the container's root, limits, ids and capabilities, and nothing beyond; stay hidden from debuggers."""
    os.fchdir(job["root"])
    os.chroot(".")
    os.fchdir(job["cwd"])
    for number, soft, hard in job["limits"]:
        linux.set_limit(number, soft, hard)
    os.umask(job["umask"])
    linux.become(job["uid"], job["gid"], job["capabilities"])
    linux.hide()  # a change of ids has undone it
    if job["no_new_privs"]:
        linux.forbid_new_privileges()


def _lead_session(job: dict[str, Any]) -> None:
    """Begin a session with its terminal, and the signals of a program just started."""
    os.setsid()
    if job["terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for name in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(name) is not None:
            signal.signal(name, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


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
