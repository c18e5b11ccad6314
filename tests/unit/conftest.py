"""A double of the controller for the client's tests, and ssh-proxy as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.controller_double import Double, Peer, make_certificate

Start = Callable[..., Double]
Run = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca.pem and key.pem of the double."""
    directory = tmp_path_factory.mktemp("tls")
    make_certificate(directory, "127.0.0.1", "::1", "localhost")
    return directory


@pytest.fixture
def double(certificates: Path) -> Iterator[Start]:
    """Start doubles; they are closed when the test ends."""
    started: list[Double] = []

    def start(script: Callable[[Peer], None], host: str = "127.0.0.1") -> Double:
        started.append(Double(certificates, script, host))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Run]:
    """Start ``arvados-client`` with the given environment and nothing of the developer's own settings."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str, env: dict[str, str] | None = None, **how: object) -> subprocess.Popen[bytes]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("ARVADOS_", "SSL_", "XDG_"))}
        clean |= {"HOME": str(tmp_path), **(env or {})}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        command = [sys.executable, "-m", "proxycommand", *arguments]
        started.append(subprocess.Popen(command, env=clean, **pipes))  # type: ignore[call-overload]
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream and not stream.closed:
                stream.close()
