"""A user and a node that are each joined to the controller by one link, which can be cut.

The user's ssh is in one network namespace, crunch-run with its gateway in another; the controller is on the machine.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from arv_ssh.config import cluster_config
from arv_ssh.dispatch.crunch_run import CrunchRun
from arv_ssh.processes import process_lock
from tests.integration.controllers import Controller, controller, submit
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.people import Person
from tests.timing import DEADLINE, wait_for

POLICY = {"Mode": "default-on", "Admin": True, "User": True}
PROGRAMS = Path(sys.executable).parent
USER = "zzzzz-tpzed-xurymjxw79nv3jz"


def ip(*arguments: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=DEADLINE)


class Link:
    """A network namespace ``name`` with ``there``, joined to this machine's ``here``."""

    def __init__(self, number: int) -> None:
        self.name = f"arvf{secrets.token_hex(4)}"
        self.here, self.there = (f"198.19.{number >> 6}.{(number & 63) * 4 + last}" for last in (1, 2))

    def make(self) -> None:
        """Make both ends."""
        ip("netns", "add", self.name)
        ip("link", "add", self.name, "type", "veth", "peer", "name", "far0", "netns", self.name)
        ip("address", "add", f"{self.here}/30", "dev", self.name)
        ip("link", "set", self.name, "up")
        for words in (["address", "add", f"{self.there}/30", "dev", "far0"], ["link", "set", "lo", "up"]):
            ip("-n", self.name, *words)
        ip("-n", self.name, "link", "set", "far0", "up")

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Cut it until the end of the block."""
        ip("-n", self.name, "link", "set", "far0", "down")
        try:
            yield
        finally:
            self.join()

    def join(self) -> None:
        """Join it again."""
        ip("-n", self.name, "link", "set", "far0", "up")

    def remove(self) -> None:
        """Remove both ends."""
        ip("netns", "delete", self.name)


class Links:
    """Both links, the controller between them, and containers on the node."""

    def __init__(self, cluster: EmbeddedCluster, root: Path, one: Controller, user: Link, node: Link) -> None:
        self._cluster = cluster
        self._root = root
        self.controller = one
        self.user = user
        self.node = node
        self._stack = ExitStack()
        self._children: list[subprocess.Popen[bytes]] = []
        port = one.address.rpartition(":")[2]
        token = cluster.directory.token_file("active").read_text().strip()
        self._person = Person(
            root / "far-home", one, token, prefix=("ip", "netns", "exec", user.name), resumes=False,
            ARVADOS_API_HOST=f"{user.here}:{port}", ARVADOS_API_HOST_INSECURE="1",
        )  # fmt: skip
        self._settings = self._person.environment
        self._program = root / "crunch-run"
        # Not "ip netns exec": that mounts another /sys, in which there are no control groups to enter.
        self._program.write_text(
            f"#!/bin/sh\nexec nsenter --net=/run/netns/{node.name} {PROGRAMS}/crunch-run "
            f'--gateway-address {node.there} "$@"\n'
        )
        self._program.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """The user's environment."""
        return self._settings

    def prefix_and_config(self) -> tuple[list[str], Path]:
        """Return what comes before ssh, and its config."""
        return ["ip", "netns", "exec", self.user.name], self._root / "far-home" / "ssh_config"

    def new_container(self) -> str:
        """Run a container by a crunch-run on the node; return its UUID once it is Running."""
        api = self.controller.root
        uuid = str(submit(api, USER)["container_uuid"])
        api.lock(uuid)
        token = api.container_auth(uuid)
        runner = CrunchRun(
            program=self._program,
            system_root_token=cluster_config.load(self._cluster.directory.config).system_root_token,
            api_host=f"{self.node.here}:{self.controller.address.rpartition(':')[2]}",
            api_insecure=True,  # the certificate has no name for this address
            log_dir=self._root / "log" / "node",
        )
        lock = process_lock.acquire(self._root / f"node-{len(self._children)}.lock")
        assert lock is not None
        self._children.append(runner.start(lock, uuid, f"v2/{token['uuid']}/{token['api_token']}"))
        wait_for(lambda: api.get("containers", uuid)["state"] == "Running", "the container to run")
        return uuid

    def crunch_run_pid(self) -> int:
        """Return the pid of the newest container's crunch-run."""
        return self._children[-1].pid

    def close(self) -> None:
        """End what runs on the node."""
        for child in self._children:
            child.terminate()
            child.wait(DEADLINE)


@contextmanager
def links(cluster: EmbeddedCluster, root: Path) -> Iterator[Links]:
    """Give both links, with a controller of their own between them, until the end of the block."""
    # Containers are started here, on the node.
    process_lock.end(cluster.directory.dispatcher_lock, DEADLINE)
    place = root / "log" / "between"
    place.mkdir()
    with ExitStack() as stack:
        # A network that leads nowhere (RFC 2544); two cells at once must not meet.
        first = secrets.randbelow(8000) * 2
        user, node = Link(first), Link(first + 1)
        for link in (user, node):
            stack.callback(link.remove)
            link.make()
        one = stack.enter_context(controller(cluster, place, POLICY, host="0.0.0.0"))
        both = Links(cluster, root, one, user, node)
        stack.callback(both.close)
        yield both
