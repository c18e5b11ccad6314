"""A gateway alone beside a container made by hand: any runtime, any options of ``docker run``; and stock ssh."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arv_ssh.trust import credentials, host_key
from tests.integration.embedded_cluster import docker
from tests.integration.terminal import TerminalSession
from tests.timing import DEADLINE

UUID = "zzzzz-dz642-lonegateway0001"
ROOT_TOKEN = "the root token of a cluster that has only this gateway"
SECRET = credentials.container_secret(ROOT_TOKEN, UUID)


class LoneGateway:
    """A container, its gateway at ``address`` with the process ``pid``, and OpenSSH with a way to it."""

    def __init__(self, container: str, address: str, directory: Path, pid: int) -> None:
        self.container = container
        self.address = address
        self.directory = directory
        self.pid = pid
        self._environment = os.environ | {"ROOT_TOKEN": ROOT_TOKEN}
        proxy = f"'{sys.executable}' -m tests.stock.controller {address} {UUID}"
        known_hosts = f"UserKnownHostsFile={directory}/known_hosts"
        self._options = ["-F", "none", "-o", "StrictHostKeyChecking=yes", "-o", known_hosts]
        self._as_login = ["-o", f"ProxyCommand={proxy} '%r'"]
        self._proxy = proxy

    def command(self, *arguments: str | bytes, program: str = "ssh") -> list[str | bytes]:
        """Return a command line; ``%r``, the user name, is asked for at the gateway too."""
        return [program, *self._options, *self._as_login, *arguments]

    def __call__(self, *arguments: str | bytes, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run ssh to its end."""
        return self._run(self.command(*arguments), input)

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run scp or sftp to its end."""
        return self._run(self.command(*arguments, program=program), b"")

    def asking_for(self, username: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run ssh with a ProxyCommand that asks the gateway for ``username``, whatever ssh's user name is."""
        return self._run(["ssh", *self._options, "-o", f"ProxyCommand={self._proxy} '{username}'", *arguments], b"")

    def _run(self, command: list[str | bytes], input: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command, input=input, capture_output=True, timeout=DEADLINE, env=self._environment)

    def on_terminal(self, *arguments: str) -> TerminalSession:
        """Start ssh on a terminal."""
        words = [word for word in self.command(*arguments) if isinstance(word, str)]
        return TerminalSession(["env", f"ROOT_TOKEN={ROOT_TOKEN}", *words])

    def exec(self, *arguments: str) -> str:
        """Return what the engine's own exec prints in the container."""
        return docker("exec", *arguments[:-1], self.container, "/bin/sh", "-c", arguments[-1])

    def write(self, path: str, text: str) -> None:
        """Write a file of the container, as its root."""
        command = ["docker", "exec", "-i", "--user", "0", self.container, "/bin/sh", "-c", 'cat >"$0"', path]
        subprocess.run(command, input=text.encode(), check=True, timeout=DEADLINE)


@contextmanager
def lone_gateway(
    runtime: str, image: str, directory: Path, *options: str, own: tuple[str, ...] = ()
) -> Iterator[LoneGateway]:
    """Run a container of the test image ``image`` with ``options`` of ``docker run``, and its gateway with its own."""
    sleep = ("busybox", "sleep") if image == "scratch" else ("sleep",)
    container = docker("run", "--detach", "--network", "none", *options, f"arv-ssh/{image}:test", *sleep, "1000000")
    (directory / "known_hosts").write_text(f"{UUID} {host_key.public_line(SECRET)}\n")
    command = [
        str(Path(sys.executable).with_name("crunch-sshd")), "--container-uuid", UUID, "--docker-container", container,
        "--gateway-auth-secret", "env:SECRET", "--accept-unsigned-sessions", "--runtime", runtime, *own,
    ]  # fmt: skip
    try:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | {"SECRET": SECRET}
        ) as process:
            try:
                assert process.stdout is not None
                address = process.stdout.readline().strip()
                assert address, "the gateway did not start"
                yield LoneGateway(container, address, directory, process.pid)
            finally:
                process.terminate()
    finally:
        docker("rm", "--force", container)
