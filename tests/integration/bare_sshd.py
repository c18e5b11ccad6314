"""The gateway's SSH server alone on a TCP port, for stock ssh: one container, the runtime that a test names."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paramiko

from arv_ssh.config.session_options import SessionOptions
from crunch_sshd.gateway.connection import DEFAULT_USER, Connection, Login
from crunch_sshd.runtimes import Runtime
from tests.integration.terminal import TerminalSession
from tests.timing import DEADLINE

SECRET = "a secret"
CLIENT, GATEWAY = "192.0.2.7", "10.0.0.7:34567"
"""The addresses that a controller would report, and a record have."""


class BareSshd:
    """Serves ``runtime`` to stock ssh as whatever user it asks for."""

    def __init__(self, runtime: Runtime, options: SessionOptions) -> None:
        self._runtime = runtime
        self._options = options
        self._connections: set[Connection] = set()
        self._user = ""
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, name="bare sshd", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            account = self._runtime.account(self._user)
            login = Login(self._user, account, "", b"", "req-1", client=CLIENT, gateway=GATEWAY)
            connection = Connection(
                client, SECRET, login, self._runtime, self._connections.discard, options=self._options
            )
            self._connections.add(connection)
            connection.start()

    def options(self, user: str = "") -> list[str]:
        """Return the options with which ssh, scp and sftp reach it as ``user`` ("" is the image's default)."""
        self._user = user
        port = self._listener.getsockname()[1]
        settings = (
            f"Port={port}", f"User={user or DEFAULT_USER}", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
        )  # fmt: skip
        return ["-F", "none", *(word for setting in settings for word in ("-o", setting))]

    def run(
        self, *arguments: str, user: str = "", program: str = "ssh", input: bytes = b"", **more: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ssh to its end; ``arguments`` are options and, after the host, a command."""
        command = [program, *self.options(user), *arguments]
        return subprocess.run(command, input=input, capture_output=True, timeout=DEADLINE, **more)

    def __call__(self, command: str, *options: str, user: str = "") -> subprocess.CompletedProcess[bytes]:
        """Run a command in the container."""
        return self.run(*options, "127.0.0.1", command, user=user)

    def on_terminal(self, *arguments: str, user: str = "") -> TerminalSession:
        """Start ssh on a terminal, with options before the host and a command after it."""
        return TerminalSession(["ssh", *self.options(user), *arguments])

    @contextmanager
    def transport(self) -> Iterator[paramiko.Transport]:
        """Connect with paramiko as the image's default user."""
        self._user = ""
        result = paramiko.Transport(self._listener.getsockname())
        try:
            result.start_client(timeout=DEADLINE)
            result.auth_none(DEFAULT_USER)
            yield result
        finally:
            result.close()

    def close(self) -> None:
        """End it and what its sessions run."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._connections):
            connection.close()


@contextmanager
def serving(runtime: Runtime, options: SessionOptions | None = None) -> Iterator[BareSshd]:
    """Serve ``runtime`` during the block."""
    server = BareSshd(runtime, options or SessionOptions())
    try:
        yield server
    finally:
        server.close()
