"""How the sidecar gets away from the process that becomes stock crunch-run.

Owns what the sidecar has of that process: nothing but the message, and a pidfd that tells its end. It is in a session
of its own, is nobody's child there, and has no descriptor, working directory or variable of the job's.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import NoReturn

from crunch_sshd.beside.handover import Handover

MODULE = "crunch_sshd.beside.sidecar"
KEPT = (
    "ARVADOS_API_HOST", "ARVADOS_API_HOST_INSECURE", "DOCKER_CERT_PATH", "DOCKER_HOST", "DOCKER_TLS_VERIFY", "HOME",
    "LANG", "LC_ALL", "LC_CTYPE", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ", "XDG_RUNTIME_DIR",
)  # fmt: skip
"""The variables that the sidecar keeps: none that may hold a secret."""


def start(handover: Handover, variables: Mapping[str, str], log_file: str | None) -> None:
    """Start the sidecar and return at once. Raises OSError when that is impossible."""
    log = os.open(log_file or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    message, end = handover.to_descriptor(), os.pidfd_open(os.getpid())
    try:
        child = os.fork()
        if child == 0:
            _leave(log, message, end, {name: variables[name] for name in KEPT if name in variables})
        os.waitpid(child, 0)
    finally:
        for descriptor in (log, message, end):
            os.close(descriptor)


def _leave(log: int, message: int, end: int, environment: dict[str, str]) -> NoReturn:
    """Begin a session, fork again, and become the sidecar. In the child, which must never return."""
    try:
        os.setsid()
        if os.fork() == 0:
            _become(log, message, end, environment)
    finally:
        os._exit(0)


def _become(log: int, message: int, end: int, environment: dict[str, str]) -> NoReturn:
    os.chdir("/")
    _arrange(os.open(os.devnull, os.O_RDWR), os.open(os.devnull, os.O_RDWR), log, message, end)
    command = [sys.executable, "-P", "-m", MODULE, "3", "4"]
    os.execve(sys.executable, command, environment)  # noqa: S606 - our own module


def _arrange(*wanted: int) -> None:
    """Make the descriptors 0, 1, 2, … be ``wanted``, and close all others."""
    above = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, len(wanted)) for one in wanted]
    for number, descriptor in enumerate(above):
        os.dup2(descriptor, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= len(wanted):
            with suppress(OSError):  # the one that listed them is closed already
                os.close(int(name))
