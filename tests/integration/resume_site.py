"""Two controllers over one database, and users whose connections can be broken on the way to them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from arv_ssh.client.controller import Controller as ClientController
from arv_ssh.client.settings import Settings
from arv_ssh.config import cluster_config
from arv_ssh.trust import credentials
from tests.integration.breaker import Breaker
from tests.integration.controllers import Controller, controller
from tests.integration.embedded_cluster import EmbeddedCluster, docker_container
from tests.integration.people import Person

Process = subprocess.Popen[bytes]
HASTE = """
from arv_ssh.client import resuming
from arv_ssh.resume import core
core.ASK_AFTER, core.LOST_AFTER = 0.3, 1.0
resuming.TICK = resuming.ResumingRelay.check_interval = 0.1
"""
"""What makes ssh-proxy less patient, in seconds."""
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

    @cached_property
    def beside(self) -> Person:
        """The user on a machine with another way to the first controller."""
        return Person(self.root / "beside", self.first, self.user.token)

    @cached_property
    def hasty_user(self) -> Person:
        """The user with an ssh-proxy that asks for signs of life at once, and soon gives up a silent connection."""
        made = Person(self.root / "hasty", self.first, self.user.token, ARVADOS_API_HOST=self.breaker.address)
        made.environment |= patched(self.root / "haste", HASTE)
        return made


@contextmanager
def resume_site(cluster: EmbeddedCluster, root: Path) -> Iterator[Site]:
    """Run the site until the end of the block."""
    with ExitStack() as stack:
        yield Site(cluster, root, stack)


def patched(directory: Path, change: str) -> dict[str, str]:
    """Return an environment in which our programs run with ``change``, some Python that patches them."""
    directory.mkdir(exist_ok=True)
    (directory / "sitecustomize.py").write_text(change)
    return {"PYTHONPATH": str(directory)}


@contextmanager
def own_gateway(site: Site, uuid: str, *options: str, environment: dict[str, str] | None = None) -> Iterator[int]:
    """Have a container's record name another gateway for it, run with ``options``; give its pid."""
    secret = credentials.container_secret(cluster_config.load(site.cluster.directory.config).system_root_token, uuid)
    command = [
        str(Path(sys.executable).with_name("crunch-sshd")), "--container-uuid", uuid,
        "--docker-container", docker_container(uuid), "--gateway-auth-secret", "env:SECRET", *options,
    ]  # fmt: skip
    environment = os.environ | {"SECRET": secret} | (environment or {})
    before = site.cluster.container(uuid)["gateway_address"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().decode().strip()
            site.cluster.api().update("containers", uuid, {"gateway_address": address})
            yield process.pid
        finally:
            site.cluster.api().update("containers", uuid, {"gateway_address": before})
            process.terminate()


def resumable(site: Site, token: str = "", at: Controller | None = None) -> ClientController:
    """Return a client of a controller, as ssh-proxy is one."""
    at = at or site.first
    host, _, port = at.address.rpartition(":")
    return ClientController(
        Settings(host, int(port), token or site.user.token, ca_file=str(at.ca)), resumable=True
    )
