"""Who reaches a gateway's port and proves nothing takes no memory, no session and no login from anybody."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from arv_ssh.config import cluster_config
from tests.hostile.attacks import MB
from tests.hostile.client import Growth
from tests.integration.conftest import Ssh
from tests.integration.embedded_cluster import EmbeddedCluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the gateway needs root to enter a container's namespaces")

LIMIT = 16 * MB
FLOODS = 3
ROOT = Path(__file__).parents[2]


@contextmanager
def flood(address: str, source: str, kind: str, parallel: int = 400) -> Iterator[None]:
    """Run floods; the block begins when each has come and gone some hundred times."""
    host, _, port = address.rpartition(":")
    command = [sys.executable, "-m", "tests.hostile.flood", host, port, source, kind, str(parallel)]
    with ExitStack() as stack:
        floods = [
            stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)) for _ in range(FLOODS)
        ]
        for one in floods:
            stack.callback(one.kill)
        for one in floods:
            assert one.stdout is not None and one.stdout.readline()
        yield


@pytest.mark.parametrize(
    ("kind", "source"),
    [("record", "127.0.0.1"), ("hello", "127.0.0.1"), ("hello", "127.0.0.2"), ("body", "127.0.0.2")],
)
def test_flood(cluster: EmbeddedCluster, busybox: str, ssh: Ssh, kind: str, source: str) -> None:
    """From the controller's address or another: an open session goes on, others begin, the gateway does not grow."""
    fresh = ("-o", "ControlPath=none", busybox)
    assert ssh(*fresh, "true").returncode == 0
    address = str(cluster.container(busybox)["gateway_address"])
    with ssh.start(*fresh, "cat") as session:
        assert session.stdin is not None and session.stdout is not None
        growth = Growth(cluster.gateway_pid(busybox))
        with flood(address, source, kind):
            for number in range(3):
                done = ssh(*fresh, f"echo {number}")
                assert (done.returncode, done.stdout) == (0, b"%d\n" % number), done.stderr
            session.stdin.write(b"still here\n")
            session.stdin.flush()
            assert session.stdout.readline() == b"still here\n"
        grown = growth.bytes()
    print(f"{kind} from {source}: {grown / MB:.1f} MB")
    assert grown <= LIMIT, f"the gateway grew by {grown / MB:.1f} MB"


CONTROLLER_FILES = 400
"""Descriptors that the controller may have; half of them for connections that wait for a request."""


@pytest.mark.parametrize(("kind", "source"), [("hello", "127.0.0.2"), ("asked", "127.0.0.1")])
def test_flood_of_a_controller(cluster: EmbeddedCluster, busybox: str, ssh: Ssh, kind: str, source: str) -> None:
    """More connections than a controller has descriptors for keep nobody out, answered or not, and do not grow it."""
    fresh = ("-o", "ControlPath=none", busybox)
    assert ssh(*fresh, "true").returncode == 0
    pid = cluster.controller_pid()
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    address = cluster_config.load(cluster.directory.config).controller_url.removeprefix("https://")
    growth = Growth(pid)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (CONTROLLER_FILES, before[1]))
    try:
        with ssh.start(*fresh, "cat") as session:
            assert session.stdin is not None and session.stdout is not None
            with flood(address, source, kind, parallel=200):
                for number in range(3):
                    done = ssh(*fresh, f"echo {number}")
                    assert (done.returncode, done.stdout) == (0, b"%d\n" % number), done.stderr
                session.stdin.write(b"still here\n")
                session.stdin.flush()
                assert session.stdout.readline() == b"still here\n"
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    grown = growth.bytes()
    print(f"{kind} from {source}: {grown / MB:.1f} MB")
    assert grown <= LIMIT + CONTROLLER_FILES * 60_000, f"the controller grew by {grown / MB:.1f} MB"
