"""The private sockets of a host's controller processes, by which they reach each other.

Owns the run directory, which only their user can enter, and in it one unix socket for each process with a lock file
beside it: the kernel releases the lock of a process that is gone, which marks its socket as abandoned. Knows nothing
of what the processes say to each other.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import socket
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.errors import ConfigError
from arv_ssh.processes import process_lock
from arv_ssh.processes.process_lock import ProcessLock

_MAX_PATH = 107
"""Bytes of a unix socket's path (unix(7): 108 with the end)."""
_MAX_NAME = len("controller-4194304-00000000.sock")
_ATTEMPTS = 10
"""Attempts to enter a directory that a leaving process may be removing or scanning at that moment."""


def directory(config: ClusterConfig, option: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the run directory of ``config``'s cluster: ``option``, the config's, systemd's, or one for this user.

    The last one's name is made with the cluster's root token, so that controllers of two clusters on one host, whatever
    their ids, do not take each other for peers.
    """
    if chosen := option or config.run_directory:
        return chosen.absolute()
    if by_systemd := environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        return Path(by_systemd)
    digest = hmac.digest(config.system_root_token.encode(), b"arv-ssh run directory v1", hashlib.sha256)
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        base = Path(runtime, "arv-ssh")
    else:
        base = Path("/run/arv-ssh" if os.geteuid() == 0 else f"/tmp/arv-ssh-{os.geteuid()}")  # noqa: S108 - checked
    return base / f"{config.cluster_id}-{digest.hex()[:12]}"


class PrivateSocket:
    """This process's socket in its run directory: bound, and held by a lock until :meth:`close`."""

    def __init__(self, listener: socket.socket, path: Path, lock: ProcessLock) -> None:
        self.listener = listener
        self.path = path
        self._lock = lock

    def close(self) -> None:
        """Leave the run directory; the last one removes it."""
        self.listener.close()
        self.path.unlink(missing_ok=True)
        self._lock.discard()
        with suppress(OSError):  # not the last one, or not ours to remove
            self.path.parent.rmdir()


def enter(run_dir: Path) -> PrivateSocket:
    """Make this process's socket in ``run_dir``, and the directory; raise :class:`ConfigError` when it is not ours."""
    if len(os.fsencode(run_dir)) + 1 + _MAX_NAME > _MAX_PATH:
        raise ConfigError(f"the run directory {run_dir} has a path too long for a socket; name another with --run-dir")
    for _ in range(_ATTEMPTS):
        _prepare(run_dir)
        _remove_abandoned(run_dir)
        path = run_dir / f"controller-{os.getpid()}-{secrets.token_hex(4)}.sock"
        try:
            lock = process_lock.acquire(path.with_suffix(".lock"))
        except FileNotFoundError:
            continue
        if lock is None or not path.with_suffix(".lock").exists():  # another process was looking at it, or removed it
            continue
        lock.record(os.getpid())
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.setblocking(False)
        return PrivateSocket(listener, path, lock)
    raise ConfigError(f"cannot create a socket in the run directory {run_dir}: other processes keep removing it")


def living(run_dir: Path) -> list[Path]:
    """Return the private sockets of all living processes of ``run_dir``."""
    return [path for path in sorted(run_dir.glob("*.sock")) if process_lock.is_held(path.with_suffix(".lock"))]


def _remove_abandoned(run_dir: Path) -> None:
    for path in run_dir.glob("*.lock"):
        lock = process_lock.acquire(path)
        if lock is not None:
            path.with_suffix(".sock").unlink(missing_ok=True)
            lock.discard()


def _prepare(run_dir: Path) -> None:
    """Make the directory, and its parent, for this user alone."""
    try:
        for path in (run_dir.parent, run_dir):
            with suppress(FileExistsError):
                path.mkdir(0o700)
        parent, status = run_dir.parent.stat(), run_dir.lstat()
    except OSError as error:
        raise ConfigError(
            f"cannot use the run directory {run_dir}: {error.strerror}; name another with --run-dir"
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigError(
            f"the run directory {run_dir} is not a directory of user {os.geteuid()} with mode 0700, so others "
            "could pose as controllers there; change that, or name another with --run-dir"
        )
    if parent.st_uid not in (0, os.geteuid()) or parent.st_mode & 0o022 and not parent.st_mode & stat.S_ISVTX:
        raise ConfigError(f"others can replace the run directory {run_dir}; name another with --run-dir")
