"""The gateway's part of entering a container: starting a process that will enter it, with all it needs to do so.

Owns the job that the process reads (:mod:`crunch_sshd.inside.enter`), and that the process does not outlive the
container, whose control groups could not be removed else. Knows nothing of what the process does.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from arv_ssh.errors import Unavailable
from crunch_sshd.inside.system_calls import Profile
from crunch_sshd.runtimes import Account, seccomp
from crunch_sshd.runtimes.host_container import HostContainer

PACKAGES = str(Path(__file__).resolve().parents[2])
"""Where the process finds this package: it runs without ``site``, which knows of installed ones."""
BOOTSTRAP = (
    "import sys; sys.path.append(sys.argv.pop(1)); name = sys.argv.pop(1); "
    "sys.exit(__import__(name, fromlist=['main']).main())"
)
"""What the process runs. The packages come last on its path, so that nothing installed there hides the library."""
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
"""All of it: nothing of the gateway's, and nothing of the container's, whose LD_PRELOAD would count before we enter."""
NAMESPACES = ("cgroup", "ipc", "uts", "net", "mnt", "user")
"""What is entered. Not the pid namespace: whoever is in it cannot see the process, signal it or trace it."""


def start(
    container: HostContainer,
    account: Account,
    module: str,
    profile: Profile,
    arguments: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    **popen: Any,
) -> subprocess.Popen[bytes]:
    """Start ``module.main()`` in a fresh process that can enter ``container`` as ``account``.

    There ``sys.argv[1]`` is for :func:`enter.load`, and ``arguments`` follow; the module may import the standard
    library and this package's own modules, no installed ones. After it has entered it can call what ``profile``
    allows only. ``popen`` goes to :class:`subprocess.Popen`. The process is killed when the container ends.

    Raises :class:`Unavailable` when the container has ended, or when the process could not be held to what the engine's
    exec is held to; OSError when this host has no room for another process.
    """
    try:
        with _opened(container, account, profile) as job, _in_memory(job) as words:
            child = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-I", "-S", "-c", BOOTSTRAP, PACKAGES, module, str(words), *arguments],
                pass_fds=[words, *job["descriptors"], *pass_fds],
                env=ENVIRONMENT,
                **popen,
            )
    except (FileNotFoundError, ProcessLookupError) as error:
        if container.has_ended():
            raise Unavailable("the container has ended") from error
        raise
    _end_with(container, child)
    return child


@contextmanager
def _opened(container: HostContainer, account: Account, profile: Profile) -> Iterator[dict[str, Any]]:
    """Yield the job, but for its own descriptor; its descriptors are closed at the end."""
    held = container.confinement(account)
    own = seccomp.compiled(profile)
    opened: list[int] = []
    try:
        namespaces = container.open_namespaces(NAMESPACES)
        opened += namespaces.values()
        opened.append(root := container.open_root())
        opened += (groups := container.open_control_groups())
        yield {
            **asdict(held),
            # Ours first: the container's need not allow another filter.
            "filters": [(own.program, own.flags), *((one.program, one.flags) for one in held.filters)],
            "namespaces": namespaces,
            "root": root,
            "cgroups": groups,
            "descriptors": list(opened),
        }
    finally:
        _close(opened)


@contextmanager
def _in_memory(job: dict[str, Any]) -> Iterator[int]:
    descriptor = os.memfd_create("job")
    try:
        with open(os.dup(descriptor), "wb") as file:
            file.write(marshal.dumps(job))
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _end_with(container: HostContainer, child: subprocess.Popen[bytes]) -> None:
    """Kill ``child`` when the container's first process ends, from a thread."""
    ends = [container.open_pidfd(), os.pidfd_open(child.pid)]
    threading.Thread(target=_watch, args=ends, name="container-end", daemon=True).start()


def _watch(container: int, child: int) -> None:
    poll = select.poll()
    for descriptor in (container, child):
        poll.register(descriptor, select.POLLIN)
    ended = {descriptor for descriptor, _ in poll.poll()}
    if child not in ended:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, signal.SIGKILL)
    _close((container, child))
