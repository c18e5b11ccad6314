"""Entering a container: what a fresh, single-threaded process does to be a user inside it, and nothing more.

Owns the order in which control groups, namespaces, root and privileges are taken on or given up. What they are comes in
a job that :mod:`crunch_sshd.runtimes.entry` wrote. After :func:`enter` nothing can be imported: the files at the old
paths are the container's then, and not to be trusted with code.

Every file transfer waits for such a process, so it starts fast: without ``site``, and with no import here that is not
needed (``dataclasses``, ``json`` and ``typing`` alone would double its start-up of some 20 ms).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # the module signal imports enum, which costs milliseconds
import marshal
import os
import sys

from crunch_sshd.inside import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PYTHON_IGNORES = {_signal.SIGPIPE, _signal.SIGXFSZ}
"""It learns of both from the call that fails."""


def load(descriptor: str) -> dict[str, Any]:
    """Return the job whose descriptor this is, and have none of its descriptors inherited any further."""
    with open(int(descriptor), "rb") as file:
        job: dict[str, Any] = marshal.loads(file.read())  # noqa: S302 - written by the gateway, into memory of its own
    for number in job["descriptors"]:
        os.set_inheritable(number, False)
    _reset_signals()
    return job


def _reset_signals() -> None:
    """Ignore and block what Python does and nothing more: not what whoever started the gateway had it ignore."""
    for number in _signal.valid_signals() - PYTHON_IGNORES:
        if _signal.getsignal(number) == _signal.SIG_IGN:
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def enter(job: dict[str, Any]) -> None:
    """Enter the container of the job, and be its user with nothing beyond. Single thread only.

    All that will be used must be imported before. Raises OSError, whose text says what could not be taken on.
    """
    linux.hide()
    stay_within(job)
    label_file = linux.open_label() if job["label"] else None
    _forget_paths()
    linux.join_namespaces(job["namespaces"])
    os.fchdir(job["root"])
    os.chroot(".")
    os.chdir("/")
    for descriptor in (job["root"], *job["namespaces"].values(), *job["cgroups"]):
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
    """Have the interpreter open no file by itself any more: neither to import it, nor to print a line of it."""
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.tracebacklimit = 0


def stay_within(job: dict[str, Any]) -> None:
    """Take on what needs the gateway's privileges, in its namespaces: control groups, limits, groups.

    The control groups come first: from then on all that this process uses is the container's.
    """
    linux.join_control_groups(job["cgroups"])
    for number, _, hard in job["limits"]:
        linux.set_limit(number, hard, hard)
    linux.set_out_of_memory_score(job["oom_score_adj"])
    try:
        os.setgroups(job["groups"])  # now: a user namespace's creator may have forbidden to change groups inside
    except PermissionError as error:
        if set(os.getgroups()) != set(job["groups"]):
            raise OSError(
                error.errno, "the gateway may not take on the container's groups; start it as root"
            ) from None
    linux.leave_keyring()
