"""What forwarding reaches: the container's network as the container sees it, and nothing of this host's own."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arv_ssh.config import destination
from crunch_sshd.forwarding.policy import Policy
from crunch_sshd.gateway.gateway import Gateway
from tests.integration.embedded_cluster import docker
from tests.security.conftest import Site
from tests.security.wire import send
from tests.timing import DEADLINE, wait_for
from tests.unit.crunch_sshd.double import MemoryRuntime

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the gateway needs root to enter a container's namespaces")


@contextmanager
def forwarded(site: Site, uuid: str, target: str) -> Iterator[str]:
    """Give a unix socket that ssh leads to ``target`` (HOST:PORT or a path) in a container."""
    with tempfile.TemporaryDirectory(prefix="ssh-") as directory:  # short: a socket's path has 107 bytes at most
        near = f"{directory}/near"
        command = site.ssh.command("-o", "ControlPath=none", "-N", "-L", f"{near}:{target}", uuid)
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            try:
                wait_for(lambda: Path(near).exists() or process.poll() is not None, "ssh to listen")
                yield near
            finally:
                process.terminate()
                process.communicate(timeout=DEADLINE)


def answer(near: str, request: bytes) -> bytes:
    """Send a request through a unix socket; return all that comes back."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE)
        sock.connect(near)
        try:
            sock.sendall(request)
            return b"".join(iter(lambda: sock.recv(65536), b""))
        except ConnectionError:
            return b""


def test_loopback_of_the_host(site: Site) -> None:
    """127.0.0.1 is the container's own: what listens on this host's is not reached, nor the gateway's port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for port in (listener.getsockname()[1], int(site.address(site.debian).rpartition(":")[2])):
            done = site.ssh("-o", "ControlPath=none", "-W", f"127.0.0.1:{port}", site.debian)
            assert done.returncode == 255 and b"Connection refused" in done.stderr


@pytest.mark.parametrize("path", ["/var/run/docker.sock", "/run/docker.sock", "/proc/1/root/run/docker.sock"])
def test_docker_socket(site: Site, path: str) -> None:
    """The engine's socket of this host is not there, by any path; one inside the container is reached."""
    request = b"GET /_ping HTTP/1.0\r\n\r\n"
    assert b"200 OK" in answer("/var/run/docker.sock", request)
    with forwarded(site, site.debian, path) as near:
        assert answer(near, request) == b""


def test_port_of_a_gateway(site: Site) -> None:
    """A gateway that a container can route to asks it for the controller's proofs, like everybody."""
    bridge = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Subnet}}").split("/")[0]
    host = bridge.rpartition(".")[0] + ".1"
    gateway = Gateway(container_uuid=site.debian, secret="s" * 64, runtime=MemoryRuntime(), host=host)
    try:
        address = gateway.start()
        named = f"X-Arvados-Container-Gateway-Uuid: {site.debian}"
        head = f"POST /ssh HTTP/1.1\r\nHost: x\r\nUpgrade: ssh\r\n{named}\r\n\r\n"
        with forwarded(site, site.debian, address) as near:
            assert answer(near, head.encode()).startswith(b"HTTP/1.1 400")  # plain HTTP, and yet it was reached
        assert send(address, head.encode()).status == 401
    finally:
        gateway.stop()


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("169.254.169.254", "169.254.169.254"),
        ("2852039166", "169.254.169.254"),
        ("metadata", "169.254.169.254"),
        ("169.254.169.254", "::ffff:169.254.169.254"),
        ("fd00:ec2::254", "fd00:ec2::254"),
        ("container", "169.254.169.254"),
    ],
)
def test_metadata_service(asked: str, found: str) -> None:
    """A cluster that allows the container's own addresses, or a network, allows no cloud's metadata service."""
    for pattern in ("container", "10.0.0.0/8", "192.0.2.0/24:443"):
        policy = Policy(destinations=(destination.parse(pattern),))
        assert policy.reachable(asked, [(found, False)], 80) == []
