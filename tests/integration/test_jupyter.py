"""A real JupyterLab in a container: its page, its API and its WebSocket, by its web address and through ``ssh -L``."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.sync.client import connect

from arv_ssh.net.tls import client_context
from tests.integration.conftest import Ssh
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.timing import DEADLINE, wait_for

VERSION = "4.6.6"
PASSWORD = "the application's own"
INSTALL_TIMEOUT = 5 * DEADLINE


def installed() -> Path:
    """Return a directory with JupyterLab for the Python of Debian's image; it is made once, and kept in the cache."""
    home = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("HOME") and f"{os.environ['HOME']}/.cache")
    cache = Path(home, "arv-ssh") if home else Path(sys.prefix, "cache")
    directory = cache / f"jupyterlab-{VERSION}"
    if not directory.exists():
        part = cache / f"{directory.name}.{os.getpid()}.part"
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(part)]
        command += ["--only-binary=:all:", "--python-version", "3.11", f"jupyterlab=={VERSION}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT)
            assert done.returncode == 0, done.stderr
            part.rename(directory)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return directory


class Lab:
    """JupyterLab in a container, on its port 8888."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        share = "/opt/lab/share/jupyter"
        variables = {"PYTHONPATH": "/opt/lab", "JUPYTER_PATH": share, "JUPYTERLAB_DIR": f"{share}/lab", "HOME": "/tmp"}
        options = ["--publish", "8888", "--mount", f"{installed()}:/opt/lab:ro", "--ram", str(1 << 30)]
        for name, value in variables.items():
            options += ["--env", f"{name}={value}"]
        self.ca = str(cluster.directory.ca)
        self.uuid = cluster.run(
            "python3", "-m", "jupyterlab", "--ip=127.0.0.1", "--port=8888", "--no-browser", "--allow-root",
            f"--IdentityProvider.token={PASSWORD}", "--ServerApp.allow_remote_access=True", "--ServerApp.root_dir=/tmp",
            options=tuple(options), image="arv-ssh/debian:test",
        )  # fmt: skip
        self.url = str(cluster.container(self.uuid)["published_ports"]["8888"]["base_url"]).rstrip("/")
        self.token = cluster.directory.token_file("active").read_text().strip()

    def curl(self, url: str, *options: str) -> str:
        """Ask with curl; the application's own token goes in the Authorization header."""
        own = ("-H", f"Authorization: token {PASSWORD}")
        done = subprocess.run(
            ["curl", "-sS", "--fail-with-body", "--cacert", self.ca, *own, *options, url], capture_output=True,
            text=True, timeout=DEADLINE,
        )  # fmt: skip
        return done.stdout if done.returncode == 0 else ""

    def check(self, url: str, cookies: tuple[str, ...], cookie: str) -> None:
        """Load the page, start a kernel and have it compute, as the page's script does."""
        page = wait_for(lambda: self.curl(f"{url}/lab", *cookies), "JupyterLab's page")
        assert "<title>JupyterLab</title>" in page
        kernel = json.loads(self.curl(f"{url}/api/kernels", *cookies, "-X", "POST"))["id"]
        assert self._computed(f"{url}/api/kernels/{kernel}/channels", cookie) == "42\n"

    def _computed(self, url: str, cookie: str) -> str:
        parts = urlsplit(url)
        plain = socket.create_connection(("127.0.0.1", parts.port), DEADLINE)
        headers = {"Authorization": f"token {PASSWORD}", "Origin": f"{parts.scheme}://{parts.netloc}"}
        headers |= {"Cookie": cookie} if cookie else {}
        tls: dict[str, Any] = {"ssl": client_context(ca_file=self.ca)} if parts.scheme == "https" else {}
        socket_url = url.replace("http", "ws", 1)
        with connect(socket_url, sock=plain, additional_headers=headers, open_timeout=DEADLINE, **tls) as opened:
            opened.send(json.dumps(request("print(6 * 7)")))
            while (message := json.loads(opened.recv(timeout=DEADLINE)))["msg_type"] != "stream":
                pass
            return str(message["content"]["text"])


def request(code: str) -> dict[str, Any]:
    """Return a message that has a kernel execute ``code`` (Jupyter's messaging protocol, version 5.3)."""
    header = {
        "msg_id": secrets.token_hex(8), "msg_type": "execute_request", "username": "", "session": secrets.token_hex(8),
        "version": "5.3", "date": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    return {
        "header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell", "buffers": [],
    }  # fmt: skip


@pytest.fixture(scope="module")
def lab(cluster: EmbeddedCluster) -> Lab:
    """Run JupyterLab."""
    return Lab(cluster)


def test_by_its_address(lab: Lab, tmp_path: Path) -> None:
    """With the user's token in the address once, the lab works as if it ran here."""
    jar = str(tmp_path / "jar")
    first = ("-L", "-c", jar, "-b", jar)
    wait_for(lambda: lab.curl(f"{lab.url}/lab?arvados_api_token={lab.token}", *first), "JupyterLab's page")
    value = next(line.split("\t")[-1] for line in (tmp_path / "jar").read_text().splitlines() if "api_token" in line)
    lab.check(lab.url, ("-b", jar, "-c", jar), f"__Host-arvados_api_token={value}")


@contextmanager
def forwarded(ssh: Ssh, uuid: str) -> Iterator[str]:
    """Forward a port of this machine to the lab's; give the URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ssh.start("-N", "-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{port}:127.0.0.1:8888", uuid):
        yield f"http://127.0.0.1:{port}"


def test_through_ssh(lab: Lab, ssh: Ssh) -> None:
    """Through a forwarded port, it works in the same way, without Arvados' token."""
    with forwarded(ssh, lab.uuid) as url:
        lab.check(url, (), "")
