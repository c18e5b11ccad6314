"""Controllers beside a cluster's own: another config, the same or another database, and requests to them as bytes."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from arv_ssh import config, upgrade
from arv_ssh.api.client import ApiClient
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.timing import DEADLINE, wait_for

CLUSTER_ID = "zzzzz"


class Controller:
    """A controller process at ``address`` ("host:port"), whose certificate the CA file ``ca`` vouches for."""

    def __init__(self, address: str, ca: Path, root_token: str, log: Path) -> None:
        self.address = address
        self.ca = ca
        self.log = log
        self.root = ApiClient(f"https://{address}", root_token, verify=str(ca))

    def connect(self) -> ssl.SSLSocket:
        """Return a TLS connection to it."""
        host, _, port = self.address.rpartition(":")
        plain = socket.create_connection((host, int(port)), timeout=DEADLINE)
        return ssl.create_default_context(cafile=str(self.ca)).wrap_socket(plain, server_hostname=host)

    def ask_for_session(self, uuid: str, token: str) -> tuple[upgrade.UpgradeAnswer, ssl.SSLSocket]:
        """Ask for a session as ssh-proxy does; return the answer and the connection it came on."""
        connection = self.connect()
        headers = [("Authorization", f"Bearer {token}")] if token else []
        form = {"login_username": "", "detach_keys": ""}
        connection.sendall(
            upgrade.request("POST", f"/arvados/v1/containers/{uuid}/ssh", self.address, headers, form)
        )
        answer = upgrade.UpgradeAnswer("the controller")
        while not answer.receive(connection.recv(65536)):
            pass
        return answer, connection

    def status(self, uuid: str, token: str) -> tuple[int, str]:
        """Return the status of the answer to a request for a session, and its one sentence ("" with 101)."""
        answer, connection = self.ask_for_session(uuid, token)
        connection.close()
        if answer.status == 101:
            return 101, ""
        body = json.loads(answer.body)
        assert len(body["errors"]) == 1 and body["request_id"].startswith("req-")
        return answer.status, str(body["errors"][0])


@contextmanager
def controller(
    cluster: EmbeddedCluster, directory: Path, shell_access: dict[str, Any], host: str = "127.0.0.1", **section: Any
) -> Iterator[Controller]:
    """Run a controller with the certificates and root token of ``cluster``, stopped at the end of the block.

    It listens on ``host``; its ``address`` is on the loopback. ``section`` overrides keys of the cluster's own config:
    its database, unless another is given, is shared.
    """
    own = yaml.safe_load(cluster.directory.config.read_text())["Clusters"][CLUSTER_ID]
    merged = {key: value for key, value in (own | section).items() if value is not None}
    merged["Containers"] = own["Containers"] | {"ShellAccess": shell_access}
    file = directory / "config.yml"
    file.write_text(yaml.safe_dump({"Clusters": {CLUSTER_ID: merged}}))
    with started(cluster, directory, ["--config", str(file)], host) as running:
        yield running


@contextmanager
def started(
    cluster: EmbeddedCluster, directory: Path, options: list[str], host: str = "127.0.0.1"
) -> Iterator[Controller]:
    """Run a controller with these options on a free port, its log in ``directory``, until the end of the block."""
    log = directory / "controller.log"
    program = str(Path(sys.executable).with_name("arv-ssh"))
    command = [program, "controller", *options, "--listen", f"{host}:0"]
    command += ["--run-dir", str(directory / "run")]  # the cluster's own controller is none of its siblings
    environment = os.environ | {"SSL_CERT_FILE": str(cluster.directory.ca)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    try:
        wait_for(lambda: _port(log) or process.poll() is not None, "the controller to listen")
        assert process.poll() is None, log.read_text()
        token = config.load(cluster.directory.config).system_root_token
        yield Controller(f"127.0.0.1:{_port(log)}", cluster.directory.ca, token, log)
    finally:
        process.terminate()
        process.wait(DEADLINE)


def _port(log: Path) -> int:
    for line in log.read_text().splitlines():
        if '"controller is listening"' in line:
            return int(json.loads(line)["port"])
    return 0


def new_user(root: ApiClient, name: str) -> tuple[str, str]:
    """Make a user; return UUID and token."""
    user = root.create(
        "users", {"username": name, "email": f"{name}@example.org", "is_active": True, "is_admin": False}
    )
    made = root.create("api_client_authorizations", {"owner_uuid": user["uuid"]})
    return str(user["uuid"]), f"v2/{made['uuid']}/{made['api_token']}"


def submit(root: ApiClient, user_uuid: str, **attributes: Any) -> dict[str, Any]:
    """Submit a container request that sleeps, as ``user_uuid``; return the request."""
    base = {
        "name": "a test's",
        "state": "Committed",
        "priority": 500,
        "owner_uuid": user_uuid,
        "modified_by_user_uuid": user_uuid,
        "command": ["sleep", "1000000"],
        "container_image": "arv-ssh/busybox:test",
        "cwd": ".",
        "output_path": "/tmp",
        "mounts": {"/tmp": {"kind": "tmp", "capacity": 1 << 20}},
        "runtime_constraints": {"vcpus": 1, "ram": 256 << 20},
        "use_existing": False,
    }
    return root.create("container_requests", base | attributes)
