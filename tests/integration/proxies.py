"""nginx and HAProxy in front of controllers, started from the templates with a test's addresses and certificates."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.embedded_cluster import EmbeddedCluster
from tests.timing import DEADLINE, wait_for

TEMPLATES = Path(__file__).parents[2] / "config_templates"
NGINX = """
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
{content}
}}
"""
"""What Debian's own nginx.conf has around a site's part."""


def free_port() -> int:
    """Return a port of this machine where nothing listens: neither of the two can tell which it was given for 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def filled(template: str, changes: dict[str, str]) -> str:
    """Return the text of a template with what a site changes in it changed; each of ``changes`` must be there."""
    text = (TEMPLATES / template).read_text()
    for old, new in changes.items():
        assert old in text, f"{template} has no {old}"
        text = text.replace(old, new)
    return text


@contextmanager
def nginx(cluster: EmbeddedCluster, directory: Path, controllers: Sequence[str]) -> Iterator[str]:
    """Run nginx from the template in front of two controllers; give its address."""
    port = free_port()
    first, second = controllers
    content = filled(
        "nginx.conf",
        {
            "10.0.0.1:9004": first,
            "10.0.0.2:9004": second,
            "listen 443": f"listen 127.0.0.1:{port}",
            "/etc/ssl/certs/zzzzz.example.org.pem": str(cluster.directory.server_certificate),
            "/etc/ssl/private/zzzzz.example.org.key": str(cluster.directory.server_key),
            "/etc/ssl/certs/arv-ssh-ca.pem": str(cluster.directory.ca),
            "proxy_ssl_name zzzzz.example.org": "proxy_ssl_name localhost",
        },
    )
    with run_nginx(directory, content, port) as address:
        yield address


@contextmanager
def run_nginx(directory: Path, content: str, port: int) -> Iterator[str]:
    """Run nginx with ``content`` in its http section; give the address."""
    file = directory / "nginx.conf"
    file.write_text(NGINX.format(directory=directory, content=content))
    with _running([_program("nginx"), "-c", str(file), "-p", str(directory)], directory / "nginx.log", port):
        yield f"127.0.0.1:{port}"


@contextmanager
def haproxy(
    cluster: EmbeddedCluster, directory: Path, controllers: Sequence[str], changes: dict[str, str] | None = None
) -> Iterator[str]:
    """Run HAProxy from the template, with ``changes``, in front of two controllers; give its address."""
    port = free_port()
    first, second = controllers
    file = directory / "haproxy.cfg"
    own = {"10.0.0.1:9004": first, "10.0.0.2:9004": second, "bind :443": f"bind 127.0.0.1:{port}"}
    file.write_text(filled("haproxy.cfg", own | (changes or {})))
    with _running([_program("haproxy"), "-db", "-f", str(file)], directory / "haproxy.log", port):
        yield f"127.0.0.1:{port}"


PROXIES = {"nginx": nginx, "haproxy": haproxy}


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (in Debian: apt-get install {name})")
    return found


@contextmanager
def _running(command: list[str], log: Path, port: int) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        def listens() -> bool:
            assert process.poll() is None, log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listens, f"{command[0]} to listen")
        yield
    finally:
        process.terminate()
        process.wait(DEADLINE)
