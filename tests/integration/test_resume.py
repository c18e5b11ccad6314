"""Sessions that outlive their connections: stock ssh notices nothing."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.breaker import Breaker
from tests.integration.controllers import Controller, controller
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.people import Person
from tests.timing import DEADLINE, wait_for

POLICY = {"Mode": "default-on", "Admin": True, "User": True}


class Site:
    """Two controllers over one database, and a user who comes to them through a breaker."""

    def __init__(self, cluster: EmbeddedCluster, root: Path, stack: ExitStack) -> None:
        self.controllers = []
        for name in ("first", "second"):
            (root / name).mkdir()
            self.controllers.append(stack.enter_context(controller(cluster, root / name, POLICY)))
        self.breaker = Breaker(self.first.address)
        stack.callback(self.breaker.close)
        token = cluster.directory.token_file("active").read_text().strip()
        self.user = Person(root / "home", self.first, token, ARVADOS_API_HOST=self.breaker.address)

    @property
    def first(self) -> Controller:
        """The controller that the breaker leads to at first."""
        return self.controllers[0]

    def sessions(self, state: str) -> list[dict[str, Any]]:
        """Return the sessions of the first controller that are in that state."""
        return [one for one in self.first.root.shell_sessions()["items"] if one["state"] == state]


@pytest.fixture(scope="module")
def site(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(cluster, tmp_path_factory.mktemp("resume"), stack)


def test_a_session_goes_on(site: Site, container: str) -> None:
    """A program in the middle of its work goes on after its connection was reset: ssh sees all its output, and 0."""
    command = "echo ready; read x; echo got $x; read y; echo got $y"
    with site.user.session(container, command=command) as session:
        assert session.stdin and session.stdout
        for word in ("one", "two"):
            site.breaker.reset()
            session.stdin.write(f"{word}\n")
            session.stdin.flush()
            assert session.stdout.readline() == f"got {word}\n"
        assert session.wait(DEADLINE) == 0
        assert session.stderr and session.stderr.read() == ""


BULK = 100 * 1000 * 1000


def test_cut_fifty_times(site: Site, debian: str, tmp_path: Path) -> None:
    """Bytes both ways at once, cut 50 times by RST and by FIN at random moments, and once by silence: exact."""
    chance = random.Random(17)
    process = subprocess.Popen(
        site.user.command(debian, "tee /tmp/up | sha256sum >&2; cat /tmp/up"), env=site.user.environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    block = os.urandom(1 << 20)
    meant, got = hashlib.sha256(), hashlib.sha256()

    def feed() -> None:
        assert process.stdin
        for _ in range(BULK >> 20):
            process.stdin.write(block)
            meant.update(block)
        process.stdin.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    size, cuts, before = 0, 0, site.breaker.connections

    def drain() -> None:
        nonlocal size
        assert process.stdout
        while data := process.stdout.read1(1 << 20):
            got.update(data)
            size += len(data)

    drainer = threading.Thread(target=drain)
    drainer.start()
    while process.poll() is None:
        start = site.breaker.passed
        wanted = chance.randint(1, 2 * BULK // 40)
        wait_for(lambda: process.poll() is not None or site.breaker.passed - start > wanted)
        if cuts < 50:
            (site.breaker.reset, site.breaker.end)[cuts % 2]()
            cuts += 1
    feeder.join()
    drainer.join()
    assert process.stderr
    said = process.stderr.read().decode()
    assert process.returncode == 0
    assert said.split()[0] == meant.hexdigest() == got.hexdigest()
    print(cuts, site.breaker.connections - before)
