"""Starting the cluster's long-lived processes, and the programs of this package that run beside us.

Owns how a daemon is detached and how the end of its log is shown when it fails. A daemon holds its lock file
(:mod:`arv_ssh.processes.process_lock`), so ``cluster down`` never ends a foreign process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from arv_ssh.errors import ArvSshError
from arv_ssh.processes import process_lock

TAIL_LINES = 5
"""Lines of a log shown when a daemon does not start: enough for its last sentence, short enough to read."""

STOP_GRACE = 15.0
"""Seconds a daemon has to end after SIGTERM."""


def program(name: str) -> Path:
    """Return one of this package's console scripts: they are installed beside the interpreter."""
    return Path(sys.executable).with_name(name)


def environment(**additions: str) -> dict[str, str]:
    """Return this process's environment without another cluster's settings, and with ``additions``."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ARVADOS_")} | additions


def start(
    lock_path: Path, arguments: list[str], log_path: Path, environ: dict[str, str], pass_fds: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    """Start a process that outlives us, appends to ``log_path`` and holds ``lock_path``."""
    lock = process_lock.acquire(lock_path)
    if lock is None:
        raise ArvSshError(f"{lock_path} is held by process {process_lock.holder_pid(lock_path)}: it is already running")
    with lock, open(os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab") as log_file:
        try:
            child = subprocess.Popen(  # noqa: S603 - our own programs
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env=environ,
                cwd="/",
                pass_fds=(lock.descriptor, *pass_fds),
                start_new_session=True,
            )
        except OSError as error:
            raise ArvSshError(f"cannot start {arguments[0]}: {error.strerror}; is the package installed?") from error
        lock.hand_over(child.pid)
    return child


def tail(log_path: Path) -> str:
    """Return the end of a log, as one line."""
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
    return " | ".join(line.strip() for line in lines if line.strip()) or "(empty)"
