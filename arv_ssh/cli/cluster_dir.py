"""The directory of one embedded cluster: which file is where, and who may read it.

Owns the paths below ``--dir`` and the writing of files that only their owner may read. Knows nothing of processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arv_ssh.errors import ConfigError, UsageError
from arv_ssh.processes import process_lock

USERS = ("admin", "active", "spectator")


class ClusterDir:
    """Paths of one cluster; making the object touches no file."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.config = self.root / "config.yml"
        self.database = self.root / "db.sqlite"
        self.env = self.root / "env"
        self.ssh_config = self.root / "ssh_config"
        self.ca = self.root / "ca.pem"
        self.server_certificate = self.root / "tls" / "server.pem"
        self.server_key = self.root / "tls" / "server.key"
        self.tokens = self.root / "tokens"
        self.log = self.root / "log"
        self.container_log = self.log / "containers"
        self.dispatch_state = self.root / "dispatch"
        self.run = self.root / "run"
        self.controller_lock = self.run / "controller.lock"
        self.dispatcher_lock = self.run / "dispatcher.lock"

    def token_file(self, user: str) -> Path:
        """Return the file of a user's token."""
        return self.tokens / user

    def crunch_run_locks(self) -> list[Path]:
        """Return the lock files of the containers that were started and are not settled yet."""
        return sorted(self.dispatch_state.glob("*-dz642-*.lock"))

    def slurm_attempts(self) -> list[Path]:
        """Return the files of the containers whose jobs in Slurm are not settled yet."""
        return sorted(path for kind in ("attempt", "clean-up") for path in self.dispatch_state.glob(f"*.{kind}"))

    def prepare(self) -> None:
        """Make the directories, for their owner only."""
        for directory in (
            self.root, self.tokens, self.log, self.container_log, self.dispatch_state, self.run, self.server_key.parent
        ):  # fmt: skip
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"cannot create the cluster's directory {directory}: {error.strerror}") from error

    def check(self) -> None:
        """Raise :class:`UsageError` when there is no cluster here."""
        if not self.config.is_file():
            raise UsageError(
                f"{self.root} holds no cluster (it has no config.yml); "
                f"start one with: arv-ssh cluster up --dir {self.root}"
            )

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold off every other ``cluster up`` and ``cluster down`` in this directory."""
        lock = process_lock.acquire(self.run / "cluster.lock")
        if lock is None:
            raise UsageError(f"another arv-ssh cluster up or down is running in {self.root}; wait for it to end")
        with lock:
            yield


def write_private(path: Path, text: str | bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    data = text.encode() if isinstance(text, str) else text
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
    part.replace(path)
