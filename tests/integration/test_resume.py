"""Sessions that outlive their connections: stock ssh notices nothing."""

from __future__ import annotations

import hashlib
import subprocess
import time
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
