"""Entering a container: how a single-threaded process becomes a user inside it, and nothing more.

Owns the order in which control groups, namespaces, root and privileges are taken on or given up. They are described in
a job that :mod:`crunch_sshd.runtimes.entry` wrote. After :func:`enter` nothing can be imported: the files at the old
paths are then the container's, and code from those is not to be trusted.

Such a process is a fork of one that has its imports done (:mod:`crunch_sshd.inside.ready`), or else a fresh one
(:mod:`crunch_sshd.inside.fresh`), which starts fast: without ``site``, and without unnecessary imports
(``dataclasses``, ``json`` and ``typing`` alone would double its start-up of some 20 ms).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # the module signal imports enum, which costs milliseconds
import os
import sys

from crunch_sshd.inside import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PACKAGE = "crunch_sshd.inside."
HANDLES = ("report", "root", "cwd", "gateway", "unified")
"""The names in a job whose values are descriptors, or None; with those in its ``doors`` and ``namespaces``."""
PYTHON_IGNORES = {_signal.SIGPIPE, _signal.SIGXFSZ}
"""Python learns of both from the call that fails."""


def handles(job: dict[str, Any]) -> list[int]:
    """Return the descriptors that a job names."""
    named = [job[name] for name in HANDLES if job.get(name) is not None]
    return [*named, *job.get("doors", ()), *job.get("namespaces", {}).values()]


def renumber(job: dict[str, Any], here: dict[int, int]) -> None:
    """Have a job name its descriptors as they are in this process, given as the gateway's → ours."""
    for name in HANDLES:
        if job.get(name) is not None:
            job[name] = here[job[name]]
    job["doors"] = [here[number] for number in job["doors"]]
    job["namespaces"] = {kind: here[number] for kind, number in job["namespaces"].items()}


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
    join(job)
    stay_within(job)
    label_file = linux.open_label() if job["label"] else None
    forget_paths()
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


def forget_paths() -> None:
    """Stop the interpreter from opening any file by itself: neither to import it, nor to print a line of it."""
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.tracebacklimit = 0


def join(job: dict[str, Any]) -> None:
    """Join the job's control groups, each in a way that a process with one thread, moving itself, does without a wait.

    (Kernel: cgroup_procs_write_start takes no lock against all forks then; it would first wait for a grace period.)
    """
    doors, unified = job["doors"], job["unified"]
    try:
        for door in doors:
            os.write(door, b"0")
        if unified is not None:
            doors = [*doors, unified, processes := os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=unified)]
            os.write(processes, b"0")
    except OSError as error:
        raise OSError(error.errno, f"the container's control group cannot be joined: {error.strerror}") from None
    for descriptor in doors:
        os.close(descriptor)


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
