"""A user's account as ``arvados-client ssh-config --install`` leaves it, and the programs that people run there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arv_ssh.cli.cluster_dir import ClusterDir
from tests.integration.terminal import TerminalSession
from tests.timing import DEADLINE

ARVADOS_CLIENT = str(Path(sys.executable).with_name("arvados-client"))


class Account:
    """A home directory in ``home``. ssh takes the account's home from elsewhere, so it is told the file with -F."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.config = home / ".ssh" / "config"
        kept = ("ARVADOS_", "SSL_", "XDG_", "SSH_", "GIT_")
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(kept)}
        self.environment |= {"HOME": str(home), "TERM": "xterm"}

    def settle(self, directory: ClusterDir, name: str = "settings.conf") -> None:
        """Write the settings that lead to a cluster as its active user."""
        file = self.home / ".config" / "arvados" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(directory.env.read_text())

    def run(
        self, *command: str, input: bytes = b"", cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end in this account."""
        return subprocess.run(
            command, input=input, cwd=cwd, capture_output=True, timeout=DEADLINE, env=self.environment | environment
        )

    def client(self, *arguments: str, **environment: Any) -> subprocess.CompletedProcess[bytes]:
        """Run arvados-client to its end."""
        return self.run(ARVADOS_CLIENT, *arguments, **environment)

    def ssh_command(self, *arguments: str) -> list[str]:
        """Return the command line of ssh in this account."""
        return ["ssh", "-F", str(self.config), *arguments]

    def ssh(self, *arguments: str, input: bytes = b"", **environment: Any) -> subprocess.CompletedProcess[bytes]:
        """Run ssh to its end."""
        return self.run(*self.ssh_command(*arguments), input=input, **environment)

    def on_terminal(self, *command: str, size: tuple[int, int] = (24, 80)) -> TerminalSession:
        """Start a program on a terminal in this account."""
        environment = (f"{key}={value}" for key, value in self.environment.items())
        return TerminalSession(["env", "-i", *environment, *command], size)

    def end_shared_connections(self) -> None:
        """End what would go on for a minute."""
        for control_socket in (self.home / ".cache" / "arvados" / "cm").glob("*"):
            self.ssh("-o", f"ControlPath={control_socket}", "-O", "exit", "any")


@contextmanager
def new_account() -> Iterator[Account]:
    """Make an account with a short name, as homes have: control sockets must fit in."""
    home = Path(tempfile.mkdtemp(prefix="a"))
    made = Account(home)
    try:
        yield made
    finally:
        made.end_shared_connections()
        shutil.rmtree(home)
