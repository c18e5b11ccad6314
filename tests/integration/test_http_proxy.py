"""The way through an HTTP proxy, with a real tinyproxy between ssh-proxy and the controller."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.conftest import Ssh
from tests.timing import DEADLINE, wait_for

pytestmark = pytest.mark.skipif(not shutil.which("tinyproxy"), reason="tinyproxy is missing; scripts/test installs it")

NAMES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")


class TinyProxy:
    """A tinyproxy on a port of its own."""

    def __init__(self, directory: Path, stack: ExitStack, settings: str = "", host: str = "127.0.0.1") -> None:
        self.log = directory / "tinyproxy.log"
        for _ in range(5):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.create_server((host, 0), family=family) as free:
                self.port: int = free.getsockname()[1]  # it knows no port 0; another may take this one before it does
            config = directory / "tinyproxy.conf"
            config.write_text(f"Port {self.port}\nListen {host}\nLogLevel Connect\nTimeout 600\n{settings}")
            with self.log.open("wb") as output:
                self.process = subprocess.Popen(["tinyproxy", "-d", "-c", str(config)], stdout=output, stderr=output)
            stack.callback(self._stop)
            listens = wait_for(lambda: self._listens(host) or self.process.poll() is not None, "tinyproxy to listen")
            if listens and self.process.poll() is None:
                return
        raise AssertionError(self.log.read_text())

    def _listens(self, host: str) -> bool:
        try:
            socket.create_connection((host, self.port), DEADLINE).close()
        except OSError:
            return False
        return True

    def _stop(self) -> None:
        self.process.terminate()
        self.process.wait(DEADLINE)

    @property
    def tunnels(self) -> int:
        """How many tunnels it was asked for."""
        return self.log.read_text().count("): CONNECT ")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., TinyProxy]]:
    """Start a tinyproxy; it ends with the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **named: TinyProxy(tmp_path, stack, *arguments, **named)


def run(ssh: Ssh, uuid: str, **variables: str) -> tuple[int, str, str]:
    """Run a command in the container with these variables in ssh's environment."""
    environment = {key: value for key, value in os.environ.items() if key not in NAMES} | variables
    done = subprocess.run(
        ssh.command(uuid, "echo in; cat"),
        input="side", capture_output=True, text=True, timeout=DEADLINE, env=environment,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_without_credentials(start: Callable[..., TinyProxy], ssh: Ssh, busybox: str, host: str, shown: str) -> None:
    """A session goes through the proxy that HTTPS_PROXY names; with the host in NO_PROXY it goes past it."""
    proxy = start(host=host)
    variables = {"HTTPS_PROXY": f"http://{shown}:{proxy.port}"}
    assert run(ssh, busybox, **variables) == (0, "in\nside", "")
    assert proxy.tunnels == 1
    assert run(ssh, busybox, **variables, NO_PROXY="127.0.0.0/8") == (0, "in\nside", "")
    assert proxy.tunnels == 1


def test_with_credentials(start: Callable[..., TinyProxy], ssh: Ssh, busybox: str) -> None:
    """The URL's user and password open a proxy that asks for them; without or with wrong ones the line says so."""
    proxy = start("BasicAuth ann p4ss-W0rd\n")
    address = f"127.0.0.1:{proxy.port}"
    assert run(ssh, busybox, https_proxy=f"http://ann:p4ss%2DW0rd@{address}") == (0, "in\nside", "")
    code, _, said = run(ssh, busybox, HTTPS_PROXY=f"http://{address}")
    first = said.splitlines()[0]
    assert (code, first.split(";")[0].split(" (4")[0]) == (
        255, f"arvados-client: the proxy {address} (HTTPS_PROXY) requires its own user name and password",
    )  # fmt: skip
    code, _, said = run(ssh, busybox, HTTPS_PROXY=f"http://ann:wr0ng@{address}")
    assert code == 255 and "wr0ng" not in said
    assert "check the user name and password there" in said or "does not let you connect" in said


def test_refused_port(start: Callable[..., TinyProxy], ssh: Ssh, busybox: str) -> None:
    """A proxy that connects to some ports only is named, with what to do."""
    proxy = start("ConnectPort 443\n")
    code, _, said = run(ssh, busybox, HTTPS_PROXY=f"http://127.0.0.1:{proxy.port}")
    assert code == 255
    assert f"the proxy 127.0.0.1:{proxy.port} (HTTPS_PROXY) does not let you connect to " in said.splitlines()[0]
    assert "ask its administrator" in said.splitlines()[0]


def test_no_proxy_there(ssh: Ssh, busybox: str) -> None:
    """When nothing listens at the proxy's address, the proxy is what is named, not the controller."""
    code, _, said = run(ssh, busybox, HTTPS_PROXY="http://127.0.0.1:1")
    assert (code, said.splitlines()[0]) == (
        255,
        "arvados-client: cannot connect to the proxy 127.0.0.1:1 (HTTPS_PROXY): connection refused; check HTTPS_PROXY, "
        "and that the proxy is up",
    )
