"""A place that stock ssh reaches, and how: the command lines of ssh, sftp and scp to it.

Owns what all sides have in common: one cipher, no configuration of the user's, no prompt.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from arv_ssh.processes.child_exit import exit_status

CIPHER = "aes128-gcm@openssh.com"
TIMEOUT = 300.0
"""Seconds for anything that is measured; what takes longer is broken, not slow."""


@dataclass(frozen=True)
class Target:
    """A ``host`` of the ssh_config file ``config``; ``options`` come before everything."""

    config: Path
    host: str
    options: tuple[str, ...] = ()

    def ssh(self, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        """Return the command line that runs ``arguments`` there."""
        return ["ssh", *self._common(), *options, self.host, *arguments]

    def sftp(self) -> list[str]:
        """Return the command line of an sftp that reads its commands from stdin."""
        return ["sftp", "-q", *self._common(), "-b", "-", self.host]

    def scp(self, source: str, destination: str) -> list[str]:
        """Return the command line that copies a directory; a path there begins with ``:``."""
        source, destination = (self.host + path if path.startswith(":") else path for path in (source, destination))
        return ["scp", "-q", "-r", *self._common(), source, destination]

    def _common(self) -> list[str]:
        return ["-F", str(self.config), "-o", f"Ciphers={CIPHER}", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
                *self.options]  # fmt: skip

    @contextmanager
    def shared(self) -> Iterator[Shared]:
        """Give this place over a connection that is open already (a ControlMaster), for the block."""
        with tempfile.TemporaryDirectory(prefix="arv-ssh-cm-") as directory:
            path = Path(directory, "s")
            own = (*self.options, "-o", f"ControlPath={path}")
            master = Target(self.config, self.host, own).ssh(options=("-M", "-N", "-n"))
            with subprocess.Popen(master, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
                try:
                    deadline = time.monotonic() + TIMEOUT
                    while not path.exists():
                        if process.poll() is not None or time.monotonic() > deadline:
                            raise Failed(f"{' '.join(master)} opened no connection")
                        time.sleep(0.01)
                    yield Shared(self.config, self.host, own, process.pid)
                finally:
                    process.terminate()


@dataclass(frozen=True)
class Shared(Target):
    """The same over the connection that the ssh with the pid ``master`` holds open."""

    master: int = 0


def run(command: list[str], stdin: str = "/dev/null", text: str = "") -> None:
    """Run a command to its end with a file as its stdin, or ``text``; its failure is the benchmark's."""
    # Files and no pipes: what a command leaves running, such as a ControlMaster's proxy, would hold those open.
    with open(stdin, "rb") as source, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as words:
        if text:
            words.write(text.encode())
            words.seek(0)
            source = words  # type: ignore[assignment]
        with subprocess.Popen(command, stdin=source, stdout=subprocess.DEVNULL, stderr=said) as process:
            status = exit_status(process, TIMEOUT)
        if status:
            said.seek(0)
            reason = said.read().decode("utf-8", "replace").strip()
            raise Failed(f"{' '.join(command)} ended with {status}: {reason}")


class Failed(Exception):
    """A benchmark could not be run; the text says what failed."""
