"""Entering a container: how a fresh, single-threaded process becomes a user inside it, and nothing more.

Owns the order in which control groups, namespaces, root and privileges are taken on or given up. They are described in
a job that :mod:`crunch_sshd.runtimes.entry` wrote. After :func:`enter` nothing can be imported: the files at the old
paths are then the container's, and code from those is not to be trusted.

Every file transfer waits for such a process, so it starts fast: without ``site``, and without unnecessary
imports (``dataclasses``, ``json`` and ``typing`` alone would double its start-up of some 20 ms).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # the module signal imports enum, which costs milliseconds
import errno
import marshal
import os
import sys

from crunch_sshd.inside import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PYTHON_IGNORES = {_signal.SIGPIPE, _signal.SIGXFSZ}
"""Python learns of both from the call that fails."""


def load(descriptor: str) -> dict[str, Any]:
    """Return the job with this descriptor, and keep all of the job's descriptors from being inherited any further."""
    with open(int(descriptor), "rb") as file:
        job: dict[str, Any] = marshal.loads(file.read())  # noqa: S302 - written by the gateway, into memory of its own
    for number in (job["joined"], *job["descriptors"]):
        os.set_inheritable(number, False)
    reset_signals()
    return job


def reset_signals() -> None:
    """Ignore and block only the signals that Python does: none that the gateway's starter had the gateway ignore."""
    for number in _signal.valid_signals() - PYTHON_IGNORES:
        if _signal.getsignal(number) == _signal.SIG_IGN:
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def enter(job: dict[str, Any]) -> None:
    """Enter the job's container, and become the job's user with no further rights. Single thread only.

    Import everything needed before. Raises OSError, whose text says what could not be taken on.
    """
    linux.hide()
    wait_until_joined(job)
    stay_within(job)
    label_file = linux.open_label() if job["label"] else None
    _forget_paths()
    linux.join_namespaces(job["namespaces"])
    os.fchdir(job["root"])
    os.chroot(".")
    os.chdir("/")
    for descriptor in (job["root"], *job["namespaces"].values()):
        os.close(descriptor)
    for number, soft, hard in job["limits"]:
        linux.set_limit(number, soft, hard)
    os.umask(job["umask"])
    linux.become(job["uid"], job["gid"], job["capabilities"])
    linux.forbid_new_privileges()
    linux.hide()  # a change of ids has undone it
    if label_file is not None:
        linux.take_label(label_file, job["label"])
        os.close(label_file)
    for program, flags in job["filters"]:
        linux.filter_system_calls(program, flags)


def _forget_paths() -> None:
    """Stop the interpreter from opening any file by itself: neither to import it, nor to print a line of it."""
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.tracebacklimit = 0


def wait_until_joined(job: dict[str, Any]) -> None:
    """Block until the gateway has put this process into the container's control groups."""
    if not os.read(job["joined"], 1):
        raise OSError(errno.ECANCELED, "the gateway ended")
    os.close(job["joined"])


def stay_within(job: dict[str, Any]) -> None:
    """Take on what needs the gateway's privileges and namespaces: limits, groups.

    Comes once in the control groups: from then on everything that this process uses counts as the container's.
    """
    for number, _, hard in job["limits"]:
        linux.set_limit(number, hard, hard)
    linux.set_out_of_memory_score(job["oom_score_adj"])
    try:
        os.setgroups(job["groups"])  # now: a user namespace's creator may have forbidden changing groups inside
    except PermissionError as error:
        if set(os.getgroups()) != set(job["groups"]):
            raise OSError(
                error.errno, "the gateway may not take on the container's groups; start it as root"
            ) from None
    linux.leave_keyring()
