"""Starting one of the gateway's own processes in a container: restricted as the engine's exec is, or not at all.

Owns which parts of the container the process is given, and ensures that it does not outlive the container: a control
group with a process in it cannot be removed. Knows nothing of what the process does.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from arv_ssh.errors import Unavailable
from crunch_sshd.inside.enter import handles
from crunch_sshd.inside.start import start
from crunch_sshd.inside.starter import starter
from crunch_sshd.inside.system_calls import Profile
from crunch_sshd.runtimes import Account, seccomp
from crunch_sshd.runtimes.child import Child
from crunch_sshd.runtimes.host_container import HostContainer

logger = logging.getLogger(__name__)

NAMESPACES = ("cgroup", "ipc", "uts", "net", "mnt", "user")
"""The namespaces entered. Not the pid namespace: so no process in that can see ours, signal it or trace it."""


def enter(
    container: HostContainer,
    account: Account,
    module: str,
    profile: Profile,
    arguments: Sequence[str] = (),
    *,
    gateway: int | None = None,
    pipes: bool = False,
) -> Child:
    """Start ``module.main(job)`` so that it can enter ``container`` as ``account`` (:func:`enter.enter`).

    Once inside, it can make only the system calls that ``profile`` allows. It is killed when the container ends. The
    job has the ``arguments``, and the descriptor ``gateway``; its standard streams are pipes, or else /dev/null.

    Raises :class:`Unavailable` when the container has ended, or when the process could not be restricted as the
    engine's exec is; OSError when this host has no room for another process.
    """
    try:
        with _opened(container, account, profile) as job, _streams(pipes) as (theirs, ours):
            job["arguments"] = list(arguments)
            if gateway is not None:
                job["gateway"] = gateway
            watched = container.open_pidfd()
            try:
                child = Child(_start(module, job, theirs), ours)
            except BaseException:
                os.close(watched)
                raise
    except (FileNotFoundError, ProcessLookupError, Unavailable) as error:
        if container.has_ended():
            raise Unavailable("the container has ended") from error
        raise
    _end_with(watched, child)
    return child


def _start(module: str, job: dict[str, Any], streams: Sequence[int]) -> int:
    """Start the process from the ready one, or else in a way that takes longer; return its pid."""
    try:
        return starter.start(module, job, streams)
    except OSError as failure:  # nothing has begun yet
        logger.debug("%s does not begin from the ready process: %s", module, failure)
    return start(module, job, streams)


@contextmanager
def _streams(pipes: bool) -> Iterator[tuple[list[int], list[int]]]:
    """Yield a process's three standard streams, and our ends of them.

    Theirs are closed at the end, ours only if the block fails.
    """
    with ExitStack() as theirs, ExitStack() as ours:
        if pipes:
            kept, given = zip(*(_pipe(ours, theirs, reading) for reading in (True, False, False)), strict=True)
            yield list(given), list(kept)
        else:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            theirs.callback(os.close, null)
            yield [null, null, null], []
        ours.pop_all()


def _pipe(ours: ExitStack, theirs: ExitStack, reading: bool) -> tuple[int, int]:
    """Return our end of a new pipe and theirs, of which they read or write theirs."""
    reader, writer = os.pipe()
    kept, given = (writer, reader) if reading else (reader, writer)
    ours.callback(os.close, kept)
    theirs.callback(os.close, given)
    return kept, given


@contextmanager
def _opened(container: HostContainer, account: Account, profile: Profile) -> Iterator[dict[str, Any]]:
    """Yield the job for :func:`crunch_sshd.inside.enter.enter`. All its descriptors are closed at the end."""
    held = container.confinement(account)
    own = seccomp.compiled(profile)
    job: dict[str, Any] = {
        **vars(held),
        # Ours first: the container's filter might not allow another.
        "filters": [(own.program, own.flags), *((one.program, one.flags) for one in held.filters)],
    }
    try:
        job["namespaces"] = container.open_namespaces(NAMESPACES)
        job["root"] = container.open_root()
        job |= vars(container.open_doors())
        yield job.copy()
    finally:
        _close(handles(job))


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _end_with(container: int, child: Child) -> None:
    """Kill ``child`` when the container's first process (given as a pidfd) ends; at once if that cannot be watched."""
    ends = [container]
    try:
        ends.append(os.pidfd_open(child.pid))
        threading.Thread(target=_watch, args=ends, name="container-end", daemon=True).start()
    except BaseException as error:
        child.end()
        _close(ends)
        if isinstance(error, RuntimeError):  # the interpreter's error when there is no room for a thread
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
        raise


def _watch(container: int, child: int) -> None:
    poll = select.poll()
    for descriptor in (container, child):
        poll.register(descriptor, select.POLLIN)
    ended = {descriptor for descriptor, _ in poll.poll()}
    if child not in ended:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, signal.SIGKILL)
    _close((container, child))
