"""A site with a stock controller and our gateway, for stock's client and for ours: who gets what in each combination.

The controller is a double; ssh, the gateway and the container are real.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from arv_ssh.config import cluster_config
from arv_ssh.trust import credentials
from tests.integration.embedded_cluster import EmbeddedCluster, docker_container
from tests.stock.front import Front, front
from tests.stock.logs import StockLogs
from tests.timing import DEADLINE

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SERVES = "mkdir /www; echo hello >/www/page; httpd -p 127.0.0.1:8080 -h /www; echo said >&2; exec sleep 1000000"


@dataclass
class Site:
    """The site, with one container whose gateway is ours; ``settings`` are the active user's environment."""

    uuid: str
    request: str
    front: Front
    settings: dict[str, str]
    home: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a client as the user."""
        return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, env=self.environment,
                              stdin=subprocess.DEVNULL)  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the user's clients."""
        base = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(self.home), "PYTHONPATH": str(ROOT)}
        return base | self.settings


@pytest.fixture(scope="module")
def site(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site: the embedded API is the API that the stock controller has behind it."""
    home, api = tmp_path_factory.mktemp("home"), cluster.api()
    config = cluster_config.load(cluster.directory.config)
    uuid = cluster.run("sh", "-c", SERVES)
    (request,) = api.list("container_requests", filters=[["container_uuid", "=", uuid]])["items"]
    program = [
        str(BIN / "crunch-sshd"), "--container-uuid", uuid, "--docker-container", docker_container(uuid),
        "--gateway-auth-secret", "env:SECRET", "--accept-unsigned-sessions",
        "--log-dir", str(cluster.directory.container_log / uuid),
    ]  # fmt: skip
    secret = credentials.container_secret(config.system_root_token, uuid)
    pair = cluster.directory.server_certificate, cluster.directory.server_key
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=os.environ | {"SECRET": secret}) as gateway:
        try:
            assert gateway.stdout is not None
            address = gateway.stdout.readline().strip()
            behind = config.controller_url.removeprefix("https://")
            with front(pair, behind, config.system_root_token, lambda _: address) as double:
                settings = {
                    "ARVADOS_API_HOST": double.address, "SSL_CERT_FILE": str(cluster.directory.ca),
                    "ARVADOS_API_TOKEN": cluster.directory.token_file("active").read_text().strip(),
                }  # fmt: skip
                yield Site(uuid, str(request["uuid"]), double, settings, home)
        finally:
            gateway.terminate()


@pytest.fixture(params=["stock", "ours"])
def options(request: pytest.FixtureRequest, site: Site) -> list[str]:
    """Options with which ssh and scp go through stock's client, or through ours, to the container's default user."""
    if request.param == "ours":
        made = site.run("arvados-client", "ssh-config", "--output-dir", str(site.home), "--no-control-master")
        assert made.returncode == 0, made.stderr
        return ["-F", str(site.home / "ssh_config")]
    proxy = f"{sys.executable} -m tests.stock.client newer connect-ssh root@{site.uuid}"
    known_hosts = f"UserKnownHostsFile={site.home}/keys_for_stocks_client"
    return ["-F", "none", "-o", f"ProxyCommand={proxy}", "-o", known_hosts, "-o", "StrictHostKeyChecking=accept-new",
            "-o", "User=root"]  # fmt: skip


def test_shell(site: Site, options: list[str]) -> None:
    """A command runs in the container by its shell, and the client ends with its status."""
    done = site.run("ssh", *options, site.uuid, "hostname | cat; exit 7")
    assert (done.returncode, done.stdout) == (7, f"{site.uuid}\n"), done.stderr


def test_scp_and_sftp(site: Site, options: list[str], tmp_path: Path) -> None:
    """Files go in and out, although the image has nothing for it."""
    (tmp_path / "in").write_text("content\n")
    assert site.run("scp", *options, str(tmp_path / "in"), f"{site.uuid}:/tmp/file").returncode == 0
    done = site.run("sftp", *options, f"{site.uuid}:/tmp/file", str(tmp_path / "out"))
    assert done.returncode == 0 and (tmp_path / "out").read_text() == "content\n", done.stderr


def test_forward(site: Site, options: list[str]) -> None:
    """A port of the container's own loopback is reached."""
    command = ["ssh", *options, "-W", "127.0.0.1:8080", site.uuid]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=site.environment) as client:
        assert client.stdin is not None and client.stdout is not None
        client.stdin.write(b"GET /page HTTP/1.0\r\n\r\n")
        client.stdin.flush()  # and stays open: stock's client ends both directions when one ends
        assert b"hello\n" in list(client.stdout)


def test_host_key(site: Site) -> None:
    """Our client has the gateway's key before ssh asks: from the answer for the log, whose headers stock passes on."""
    made = site.run("arvados-client", "ssh-config", "--output-dir", str(site.home), "--no-control-master")
    assert made.returncode == 0
    done = site.run("ssh", "-F", str(site.home / "ssh_config"), "-o", "StrictHostKeyChecking=yes", site.uuid, "true")
    assert (done.returncode, done.stderr) == (0, "")
    path = f"/arvados/v1/container_requests/{site.request}/log/{site.uuid}/crunch-run.txt"
    assert f"GET {path}" in site.front.asked


def test_logs_with_our_client(site: Site) -> None:
    """``arvados-client logs`` shows what the program and its crunch-run said."""
    done = site.run("arvados-client", "logs", site.uuid)
    assert done.returncode == 0 and "stderr.txt     said" in done.stdout.splitlines(), done.stderr


def test_logs_with_stocks_client(site: Site) -> None:
    """Stock's client shows the same."""
    context = ssl.create_default_context(cafile=site.settings["SSL_CERT_FILE"])
    client = StockLogs(site.front.address, context, site.settings["ARVADOS_API_TOKEN"], site.request)
    assert client.run(follow=False) == 0, client.said
    assert "stderr.txt     said" in client.lines
