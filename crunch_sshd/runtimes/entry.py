"""Starting one of the gateway's own processes in a container: restricted as the engine's exec is, or not at all.

Owns which parts of the container the process is given, and ensures that it does not outlive the container: a control
group with a process in it cannot be removed. Knows nothing of what the process does.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from arv_ssh.errors import Unavailable
from crunch_sshd.inside.start import start
from crunch_sshd.inside.system_calls import Profile
from crunch_sshd.runtimes import Account, seccomp
from crunch_sshd.runtimes.host_container import HostContainer

NAMESPACES = ("cgroup", "ipc", "uts", "net", "mnt", "user")
"""The namespaces entered. Not the pid namespace: so no process in that can see ours, signal it or trace it."""


def enter(
    container: HostContainer,
    account: Account,
    module: str,
    profile: Profile,
    arguments: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    **popen: Any,
) -> subprocess.Popen[bytes]:
    """Start ``module.main()`` so that it can enter ``container`` as ``account`` (:mod:`crunch_sshd.inside.start`).

    Once inside, it can make only the system calls that ``profile`` allows. It is killed when the container ends.

    Raises :class:`Unavailable` when the container has ended, or when the process could not be restricted as the
    engine's exec is; OSError when this host has no room for another process.
    """
    try:
        with _opened(container, account, profile) as (job, groups):
            watched = container.open_pidfd()
            try:
                child = start(module, job, arguments, pass_fds, groups, **popen)
            except BaseException:
                os.close(watched)
                raise
    except (FileNotFoundError, ProcessLookupError, Unavailable) as error:
        if container.has_ended():
            raise Unavailable("the container has ended") from error
        raise
    _end_with(watched, child)
    return child


@contextmanager
def _opened(container: HostContainer, account: Account, profile: Profile) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """Yield the job for :func:`crunch_sshd.inside.enter.enter`, and the control groups to join.

    All their descriptors are closed at the end.
    """
    held = container.confinement(account)
    own = seccomp.compiled(profile)
    opened: list[int] = []
    try:
        namespaces = container.open_namespaces(NAMESPACES)
        opened += namespaces.values()
        opened.append(root := container.open_root())
        job = {
            **asdict(held),
            # Ours first: the container's filter might not allow another.
            "filters": [(own.program, own.flags), *((one.program, one.flags) for one in held.filters)],
            "namespaces": namespaces,
            "root": root,
            "descriptors": list(opened),
        }
        opened += (groups := container.open_control_groups())
        yield job, groups
    finally:
        _close(opened)


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _end_with(container: int, child: subprocess.Popen[bytes]) -> None:
    """Kill ``child`` when the container's first process (given as a pidfd) ends; at once if that cannot be watched."""
    ends = [container]
    try:
        ends.append(os.pidfd_open(child.pid))
        threading.Thread(target=_watch, args=ends, name="container-end", daemon=True).start()
    except BaseException as error:
        child.kill()
        child.wait()
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
