"""Sessions that outlive what is between user and controllers: a link that goes down, proxies and their rules."""

from __future__ import annotations

import hashlib
import os
import random
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.network import Link
from tests.integration.controllers import controller
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.people import ECHO, Person, answers
from tests.integration.proxies import PROXIES, haproxy
from tests.integration.resume_site import HASTE, POLICY, Site, patched, resume_site
from tests.timing import DEADLINE, wait_for


@pytest.fixture(scope="module")
def site(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two controllers and a breaker before the first one."""
    with resume_site(cluster, tmp_path_factory.mktemp("resume")) as one:
        yield one


@pytest.mark.parametrize("name", sorted(PROXIES))
def test_behind_a_proxy(site: Site, busybox: str, name: str, tmp_path: Path) -> None:
    """Behind nginx and HAProxy, sessions of a controller that is killed go on through the other one."""
    with ExitStack() as stack:
        victim = stack.enter_context(site.controller(f"{name}-victim"))
        address = stack.enter_context(PROXIES[name](site.cluster, tmp_path, [victim.address, site.second.address]))
        user = Person(tmp_path / "home", victim, site.user.token, ARVADOS_API_HOST=address)
        sessions = [stack.enter_context(user.session(busybox, command=ECHO)) for _ in range(2)]
        assert len(site.sessions("open", victim)) == 1
        os.kill(victim.pid, signal.SIGKILL)
        for session in sessions:
            answers(session, "here")
        assert len(site.sessions("open", site.second)) == 2


def test_kept_awake(site: Site, busybox: str, tmp_path: Path) -> None:
    """A proxy that drops silent connections finds none: the layer says something now and then, though nobody types."""
    both = site.first, site.second
    with haproxy(site.cluster, tmp_path, [one.address for one in both], {"timeout client 24h": "timeout client 2s"}) \
            as address:  # fmt: skip
        user = Person(tmp_path / "home", site.first, site.user.token, ARVADOS_API_HOST=address)
        user.environment |= patched(tmp_path / "haste", HASTE)
        with user.session(busybox, command=ECHO) as session:
            ((found,),) = (opened for one in both if (opened := site.sessions("open", one)))
            threading.Event().wait(5.0)
            answers(session, "awake")
            for one in both:
                assert not [line for line in one.log.read_text().splitlines() if found["id"] in line and "lost" in line]


FILE, PIPE = 500_000_000, 150_000_000
"""Bytes of each file that scp copies over a link that goes down, and of a pipe: it must still run then."""
DOWN = 20
"""Seconds that the link is down."""


@pytest.mark.timeout(8 * DEADLINE)
def test_the_link_is_down(site: Site, debian: str, tmp_path: Path) -> None:
    """A real network link that is down for 20 s amid scp both ways and a pipe: all three end with 0, and are exact."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    link = Link(random.randrange(16384))
    with ExitStack() as stack:
        stack.callback(link.remove)
        link.make()
        (site.root / "abroad").mkdir()
        one = stack.enter_context(controller(site.cluster, site.root / "abroad", POLICY, host="0.0.0.0"))
        user = Person(
            tmp_path / "home", one, site.user.token, prefix=("ip", "netns", "exec", link.name),
            ARVADOS_API_HOST=f"{link.here}:{one.address.rpartition(':')[2]}", ARVADOS_API_HOST_INSECURE="1",
        )  # fmt: skip
        make = f"head -c {FILE // 100} /dev/urandom >/tmp/part; for i in $(seq 100); do cat /tmp/part; done >/tmp/big"
        made = user.ssh(debian, f"{make}; sha256sum </tmp/big; head -c {PIPE} /tmp/big | sha256sum")
        wanted, of_pipe = made.stdout.split()[0:3:2]
        scp = ["ip", "netns", "exec", link.name, "scp", "-q", "-F", str(tmp_path / "home" / "ssh_config")]
        first = subprocess.run(
            [*scp, f"{debian}:/tmp/part", str(tmp_path / "part")], env=user.environment, timeout=DEADLINE
        )
        assert first.returncode == 0
        with (tmp_path / "up").open("wb") as up:
            for _ in range(100):
                up.write((tmp_path / "part").read_bytes())
        piped = f"{shlex.join(user.command(debian, f'head -c {PIPE} /tmp/big'))} | sha256sum; exit ${{PIPESTATUS[0]}}"
        commands = (
            [*scp, str(tmp_path / "up"), f"{debian}:/tmp/up"], [*scp, f"{debian}:/tmp/big", str(tmp_path / "down")],
            ["bash", "-c", piped],
        )  # fmt: skip
        running = [
            stack.enter_context(subprocess.Popen(command, env=user.environment, stdout=subprocess.PIPE))
            for command in commands
        ]
        wait_for(lambda: (tmp_path / "down").exists() and (tmp_path / "down").stat().st_size > FILE // 10)
        assert all(process.poll() is None for process in running)
        with link.cut():
            threading.Event().wait(DOWN)
        assert [process.wait(3 * DEADLINE) for process in running] == [0, 0, 0]
        assert running[2].stdout and running[2].stdout.read().split()[0].decode() == of_pipe
        with (tmp_path / "down").open("rb") as down:
            assert hashlib.file_digest(down, "sha256").hexdigest() == wanted
        assert user.ssh(debian, "sha256sum </tmp/up; rm /tmp/up /tmp/big /tmp/part").stdout.split()[0] == wanted
