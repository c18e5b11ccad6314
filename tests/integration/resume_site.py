"""Two controllers over one database, and users whose connections can be broken on the way to them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from arv_ssh.client.controller import Controller as ClientController
from arv_ssh.client.settings import Settings
from tests.integration.breaker import Breaker
from tests.integration.controllers import Controller, controller
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.people import Person

Process = subprocess.Popen[bytes]
POLICY = {"Mode": "default-on", "Admin": True, "User": True}


class Site:
    """Two controllers over one database, and a user who comes to them through a breaker."""

    def __init__(self, cluster: EmbeddedCluster, root: Path, stack: ExitStack) -> None:
        self.cluster, self.root = cluster, root
        self.first, self.second = (stack.enter_context(self.controller(name)) for name in ("first", "second"))
        self.breaker = Breaker(self.first.address)
        stack.callback(self.breaker.close)
        token = cluster.directory.token_file("active").read_text().strip()
        self.user = Person(root / "home", self.first, token, ARVADOS_API_HOST=self.breaker.address)

    @contextmanager
    def controller(self, name: str, **policy: Any) -> Iterator[Controller]:
        """Run a controller of the cluster until the end of the block."""
        (self.root / name).mkdir()
        with controller(self.cluster, self.root / name, POLICY | policy) as running:
            yield running

    def sessions(self, state: str, one: Controller | None = None) -> list[dict[str, Any]]:
        """Return the sessions of a controller that are in that state."""
        items = (one or self.first).root.shell_sessions()["items"]
        return [item for item in items if item["state"] == state]

    @contextmanager
    def running(self, uuid: str, command: str, *options: str, user: Person | None = None) -> Iterator[Process]:
        """Run ssh with pipes until the end of the block, as ``user`` if that is another one."""
        user = user or self.user
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(
            user.command(*options, uuid, command), env=user.environment, **pipes  # type: ignore[call-overload]
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def person(self, name: str, environment: dict[str, str]) -> Person:
        """Return the user on another machine, where ``environment`` is set, too; the breaker is on the way."""
        made = Person(self.root / name, self.first, self.user.token, ARVADOS_API_HOST=self.breaker.address)
        made.environment |= environment
        return made


@contextmanager
def resume_site(cluster: EmbeddedCluster, root: Path) -> Iterator[Site]:
    """Run the site until the end of the block."""
    with ExitStack() as stack:
        yield Site(cluster, root, stack)


def resumable(site: Site, token: str = "", at: Controller | None = None) -> ClientController:
    """Return a client of a controller, as ssh-proxy is one."""
    at = at or site.first
    host, _, port = at.address.rpartition(":")
    return ClientController(
        Settings(host, int(port), token or site.user.token, ca_file=str(at.ca)), resumable=True
    )
