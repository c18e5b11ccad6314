"""A controller, by its own program, over an embedded database with Running containers whose gateways are simulated."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import yaml

from arv_ssh.api.client import ApiClient
from arv_ssh.cli import certificates
from arv_ssh.errors import ArvSshError
from tests.bench import cpu
from tests.bench.crowd import EchoGateway
from tests.integration.controllers import Controller
from tests.unit.arv_ssh.embedded.cluster import ACTIVE, ROOT_TOKEN, WORK

GATEWAYS = 16
START_TIMEOUT = 120.0


class Site:
    """A controller with ``workers`` processes in ``directory``, and :data:`GATEWAYS` containers of one user."""

    def __init__(self, directory: Path, database: str, workers: int, stack: ExitStack) -> None:
        directory.mkdir(parents=True)
        issued = certificates.issue("zzzzz")
        for name, text in (("ca", issued.authority), ("server", issued.server), ("key", issued.server_key)):
            (directory / f"{name}.pem").write_bytes(text)
        (directory / "key.pem").chmod(0o600)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        url = f"https://{address}"
        section = {
            "SystemRootToken": ROOT_TOKEN,
            "Services": {"Controller": {"ExternalURL": url, "InternalURLs": {url: {}}}},
            "TLS": {"Certificate": f"file://{directory}/server.pem", "Key": f"file://{directory}/key.pem"},
            "Containers": {"ShellAccess": {"Mode": "default-on", "Admin": True, "User": True}},
            "EmbeddedAPI": {"Database": database},
        }
        (directory / "config.yml").write_text(yaml.safe_dump({"Clusters": {"zzzzz": section}}))
        program = str(Path(sys.executable).with_name("arv-ssh"))
        options = ["--config", str(directory / "config.yml"), "--listen", address, "--workers", str(workers)]
        options += ["--run-dir", str(directory / "run"), "--drain-timeout", "0"]
        with (directory / "log").open("ab") as log:
            self._process = subprocess.Popen([program, "controller", *options], stdout=log, stderr=log, env=os.environ)
        stack.callback(self._end)
        self.controller = Controller(address, directory / "ca.pem", ROOT_TOKEN, directory / "log", self._process.pid)
        self._wait()
        self.token = self._make_user()
        self.uuids = [self._make_container(stack) for _ in range(GATEWAYS)]

    def pids(self) -> list[int]:
        """Return the processes of the controller that serve, or have served, sessions."""
        return [self._process.pid, *cpu.children(self._process.pid)]

    def seconds(self) -> float:
        """Return the processor time that they have used."""
        return sum(cpu.seconds(pid)[0] for pid in self.pids())

    def resident(self) -> int:
        """Return the bytes of memory that they have."""
        return sum(cpu.resident(pid) for pid in self.pids())

    @property
    def root(self) -> ApiClient:
        """The API as root."""
        return self.controller.root

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self.root.current_user()
                return
            except ArvSshError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _make_user(self) -> str:
        self.root.create("users", {"uuid": ACTIVE, "username": "active", "email": "a@example.org", "is_active": True})
        made = self.root.create("api_client_authorizations", {"owner_uuid": ACTIVE})
        return f"v2/{made['uuid']}/{made['api_token']}"

    def _make_container(self, stack: ExitStack) -> str:
        request = WORK | {"use_existing": False, "modified_by_user_uuid": ACTIVE, "owner_uuid": ACTIVE}
        uuid = str(self.root.create("container_requests", request)["container_uuid"])
        gateway = EchoGateway(uuid, ROOT_TOKEN, stack)
        self.root.lock(uuid)
        self.root.update("containers", uuid, {"state": "Running", "gateway_address": gateway.address})
        return uuid

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
