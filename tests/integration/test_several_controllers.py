"""Two controllers on machines of their own, behind HAProxy, on one PostgreSQL: one is killed, one is cut off."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.config import cluster_config
from arv_ssh.dispatch.crunch_run import CrunchRun
from arv_ssh.processes import process_lock
from tests.faults.network import Link, ip
from tests.integration.controllers import Controller, ControllerProcess, new_user, start, submit, write_config
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.people import ECHO, Person, answers
from tests.integration.proxies import haproxy
from tests.postgresql import postgresql_server
from tests.timing import DEADLINE, wait_for

pytestmark = pytest.mark.timeout(300)
POLICY = {"Mode": "default-on", "Admin": True, "User": True}
PORT = 8443
CRUNCH_RUN = Path(sys.executable).with_name("crunch-run")
ATTEMPTS = 5
"""New sessions while a controller is away: HAProxy gives every second one to it, until its check has failed."""


class Machine:
    """A machine with a controller: a network namespace with a link to this machine, and one to the other machine."""

    def __init__(self, site: Site, name: str, link: Link) -> None:
        self._site = site
        self._starts = 0
        self.name = name
        self.link = link
        self.url = f"https://{link.there}:{PORT}"
        self._stack = ExitStack()
        self.process: ControllerProcess

    def start(self) -> None:
        """Start its controller."""
        self._starts += 1
        place = self._site.directory / f"{self.name}{self._starts}"
        place.mkdir()
        own = self._site.cluster.directory
        config = write_config(
            self._site.cluster, place, POLICY,
            Services={"Controller": {"InternalURLs": {url: {} for url in self._site.urls}}},
            EmbeddedAPI={"Database": self._site.database},
            # The certificate has no name for the machines' addresses.
            TLS={"Certificate": f"file://{own.server_certificate}", "Key": f"file://{own.server_key}",
                 "Insecure": True},
        )  # fmt: skip
        wrapper = ["nsenter", f"--net=/run/netns/{self.link.name}"]
        options = ["--listen", f"{self.link.there}:{PORT}", "--drain-timeout", "0"]
        self._stack = ExitStack()
        self.process = self._stack.enter_context(start(self._site.cluster, config, place / "log", options, wrapper))
        self.process.wait_until_it_listens()

    def kill(self) -> None:
        """Kill its controller."""
        self.process.popen.kill()
        self.stop()

    def stop(self) -> None:
        """Stop its controller, if it runs."""
        self._stack.close()

    def sessions(self) -> int:
        """Return how many sessions its controller has begun."""
        return len(self.process.events("session opened"))


class Site:
    """Both machines, HAProxy in front of them, a user, and containers on this machine."""

    def __init__(self, cluster: EmbeddedCluster, directory: Path, database: str, links: list[Link]) -> None:
        self.cluster = cluster
        self.directory = directory
        self.database = database
        self.urls = [f"https://{link.there}:{PORT}" for link in links]
        self.machines = [Machine(self, name, link) for name, link in zip(("a", "b"), links, strict=True)]
        self.person: Person
        self.controller: Controller
        self.children: list[subprocess.Popen[bytes]] = []

    def open(self, address: str) -> None:
        """Begin, with HAProxy at ``address``."""
        root_token = cluster_config.load(self.cluster.directory.config).system_root_token
        log = self.directory / "none"
        self.controller = Controller(address, self.cluster.directory.ca, root_token, log)
        self.user, token = new_user(self.controller.root, "several")
        self.person = Person(self.directory / "home", self.controller, token)

    def run(self, **options: Any) -> str:
        """Run a container by a crunch-run with ``options``; return its UUID once it is Running."""
        api = self.controller.root
        uuid = str(submit(api, self.user)["container_uuid"])
        api.lock(uuid)
        auth = api.container_auth(uuid)
        program = self.directory / f"crunch-run{len(self.children)}"
        address = f'--gateway-address {self.machines[0].link.here} ' if "gateway_tunnel" not in options else ""
        program.write_text(f'#!/bin/sh\nexec {CRUNCH_RUN} {address}"$@"\n')
        program.chmod(0o755)
        runner = CrunchRun(
            program=program, system_root_token=self.controller.root_token, api_host=self.controller.address,
            api_insecure=True, log_dir=self.directory / "log", **options,
        )  # fmt: skip
        lock = process_lock.acquire(self.directory / f"{uuid}.lock")
        assert lock is not None
        self.children.append(runner.start(lock, uuid, f"v2/{auth['uuid']}/{auth['api_token']}"))
        wait_for(lambda: api.get("containers", uuid)["state"] == "Running", "the container to run")
        return uuid

    def address(self, uuid: str) -> str:
        """Return the gateway's address on the record, asked on a connection of its own: an old one may lead nowhere."""
        old = self.controller
        api = Controller(old.address, old.ca, old.root_token, old.log).root
        try:
            return str(api.get("containers", uuid)["gateway_address"])
        finally:
            api.close()

    def enters(self, uuid: str) -> bool:
        """Say whether a new session works."""
        return self.person.ssh(uuid, "echo in").stdout == "in\n"

    def close(self) -> None:
        """End the containers."""
        for child in self.children:
            child.terminate()
            child.wait(DEADLINE)


@pytest.fixture
def site(cluster: EmbeddedCluster, tmp_path: Path) -> Iterator[Site]:
    """Two machines, joined to this one and to each other."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with ExitStack() as stack:
        server = stack.enter_context(postgresql_server())
        database = server.url(stack.enter_context(server.database()))
        first = secrets.randbelow(8000) * 2
        links = [Link(first), Link(first + 1)]
        for link in links:
            stack.callback(link.remove)
            link.make()
            ip("-n", link.name, "route", "add", "default", "via", link.here)
        join(*links)
        one = Site(cluster, tmp_path, database, links)
        for machine in one.machines:
            stack.callback(machine.stop)
            machine.start()
        place = tmp_path / "haproxy"
        place.mkdir()
        address = stack.enter_context(haproxy(cluster, place, [f"{link.there}:{PORT}" for link in links]))
        one.open(address)
        stack.callback(one.close)
        yield one


def join(one: Link, other: Link) -> None:
    """Make a link between two namespaces, over which they reach each other's addresses."""
    ip("-n", one.name, "link", "add", "peer", "type", "veth", "peer", "name", "peer", "netns", other.name)
    for here, there in ((one, other), (other, one)):
        ip("-n", here.name, "link", "set", "peer", "up")
        ip("-n", here.name, "route", "add", f"{there.there}/32", "dev", "peer", "src", here.there)


def test_one_is_killed_and_one_is_cut_off(site: Site) -> None:
    """No new session fails while one controller is away, open ones go on at the other, and tunnels move to it."""
    direct = site.run()
    tunnelled = site.run(gateway_tunnel=f"https://{site.controller.address}")
    first, second = site.machines
    with ExitStack() as stack:
        sessions = [stack.enter_context(site.person.session(direct, command=ECHO)) for _ in range(2)]
        assert sorted(machine.sessions() for machine in site.machines) >= [1, 1]
        holder = first if first.url in site.address(tunnelled) else second
        other = second if holder is first else first
        holder.kill()
        assert [site.enters(direct) for _ in range(ATTEMPTS)] == [True] * ATTEMPTS
        wait_for(lambda: other.url in site.address(tunnelled), "the tunnel to move from the killed controller")
        assert site.enters(tunnelled)
        for session in sessions:
            answers(session, "after the kill")

    holder.start()
    wait_for(lambda: site.enters(direct) and holder.sessions() > 0, "HAProxy to use it again")
    with (
        site.person.session(direct, command=ECHO) as one, site.person.session(direct, command=ECHO) as another,
        other.link.cut(),
    ):  # fmt: skip
        assert [site.enters(direct) for _ in range(ATTEMPTS)] == [True] * ATTEMPTS
        wait_for(lambda: holder.url in site.address(tunnelled), "the tunnel to move from the one cut off", 2 * DEADLINE)
        assert site.enters(tunnelled)
        answers(one, "after the cut")
        answers(another, "after the cut")
