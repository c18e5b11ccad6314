"""Becomes a session's program: a process that takes on all that the container's programs are held to, and executes.

Owns the order in which control groups, namespaces, root and privileges are taken on; a runtime opens all that is needed
and describes it in a job (:mod:`crunch_sshd.inside.ready`). Nothing may be imported after the namespaces are entered,
as in :mod:`crunch_sshd.inside.enter`.

The program must be born in the container's pid namespace, so this process forks once more, at the very end: from its
birth on, what the container can see has no right that the container's own programs lack, and no descriptor but those of
the report. It is a child of the gateway itself (CLONE_PARENT, as runc does), so that the exact exit status reaches the
gateway and no process stays in between. It executes nothing before its pid is reported: where the container's memory
runs out in between, the gateway would not know of it, and execute the program once more.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # the module signal imports enum, which costs milliseconds
import errno
import fcntl
import os
import termios

from crunch_sshd.inside import enter, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""The exit statuses that a shell gives (POSIX, 2.8.2)."""
LOST = 255
"""The exit status where it is not the program that failed."""
DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Refused(Exception):
    """Something could not be taken on; the arguments are an exit status and a text for the user."""


def main(job: dict[str, Any]) -> NoReturn:
    """Do the job; write the program's pid to the report's pipe, and then nothing, or why it could not be started."""
    try:
        reported, said = os.pipe()
        _join(job)
        enter.stay_within(job)
        enter.forget_paths()
        _become(job, [reported, said])
        pid = linux.fork_as_sibling()
        if pid:
            os.write(job["report"], b"pid %d\n" % pid)
            os.write(said, b"x")
            os._exit(0)
        os.close(said)
        if not os.read(reported, 1):
            raise Refused(LOST, "the process that starts it ended; is the container out of memory?")
        _execute(job)
    except Refused as refusal:
        status, text = refusal.args
        _fail(job, status, text)
    except OSError as error:
        _fail(job, NOT_EXECUTABLE, str(error.args[1]))
    except ValueError as error:  # a null byte in an argument or a variable: Python's own words, and no traceback
        _fail(job, NOT_EXECUTABLE, str(error))
    except MemoryError:  # the container's own limits (RLIMIT_AS, RLIMIT_DATA)
        _fail(job, NOT_EXECUTABLE, os.strerror(errno.ENOMEM))


def _fail(job: dict[str, Any], status: int, text: str) -> NoReturn:
    os.write(job["report"], f"failed {status} {text}\n".encode("utf-8", "surrogateescape"))
    os._exit(status)


def _join(job: dict[str, Any]) -> None:
    try:
        enter.join(job)
    except OSError as error:
        raise Refused(LOST, str(error.args[1])) from error


def _become(job: dict[str, Any], kept: list[int]) -> None:
    """Take on everything but what only the program itself can; keep open the report and ``kept``."""
    linux.join_namespaces(job["namespaces"])
    os.fchdir(job["root"])
    os.chroot(".")
    os.fchdir(job["cwd"])
    linux.close_all_but([job["report"], *kept])
    for number, soft, hard in job["limits"]:
        linux.set_limit(number, soft, hard)
    os.umask(job["umask"])
    if job["root_goes"] and _goes(job["directory"]):
        job["directory"] = None
    if not job["no_new_privs"]:
        _filter(job)  # later the right to would be gone
    linux.become(job["uid"], job["gid"], job["capabilities"])
    linux.hide()  # a change of ids has undone it
    if job["no_new_privs"]:
        linux.forbid_new_privileges()
        _filter(job)


def _goes(directory: bytes) -> bool:
    """Go to a directory if this process may; whoever may not now may later, as its owner."""
    try:
        os.chdir(directory)
    except PermissionError:
        return False
    except OSError as error:
        raise Refused(NOT_FOUND, f"{os.fsdecode(directory)}: {error.strerror}") from error
    return True


def _filter(job: dict[str, Any]) -> None:
    for program, flags in job["filters"]:
        linux.filter_system_calls(program, flags)


def _execute(job: dict[str, Any]) -> NoReturn:
    os.setsid()
    if job["terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in enter.PYTHON_IGNORES:
        _signal.signal(number, _signal.SIG_DFL)
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
