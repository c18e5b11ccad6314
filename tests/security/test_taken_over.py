"""A hole in our own file server or broker: what whoever takes it over can do, and what the second wall holds back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from crunch_sshd.inside.system_calls import BROKER, FILE_SERVER, Profile
from crunch_sshd.runtimes import Account, bundle, entry
from crunch_sshd.runtimes.host_container import HostContainer
from tests.children import WAYS, begun, communicate
from tests.integration.embedded_cluster import docker, docker_container
from tests.security.conftest import Site
from tests.timing import DEADLINE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the gateway needs root to enter a container's namespaces")


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of root's on this host."""
    with subprocess.Popen(["sleep", "1000000"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("profile", "may"), [(FILE_SERVER, set()), (BROKER, {"socket"})], ids=["file server", "broker"]
)
@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("way", WAYS)
def test_ways_out(
    site: Site, victim: subprocess.Popen[bytes], way: str, uid: int, profile: Profile, may: set[str]
) -> None:
    """It starts nothing, signals and traces no process of the host's, and makes no device; the broker opens sockets."""
    pid, name = docker("inspect", "-f", "{{.State.Pid}} {{.Id}}", docker_container(site.debian)).split()
    container = HostContainer(int(pid), bundle.find(name))
    account = Account("x", uid, uid, "/", None, str(uid), (uid,))
    arguments = [str(victim.pid)]
    with begun(way):
        child = entry.enter(container, account, "tests.security.taken_over", profile, arguments, pipes=True)
    output, _ = communicate(child)
    container.close()
    assert child.wait(DEADLINE) == 0
    outcomes = dict(line.split(": ") for line in output.decode().splitlines())
    assert len(outcomes) == 16
    assert {name for name, outcome in outcomes.items() if outcome == "done"} == may
    assert victim.poll() is None
