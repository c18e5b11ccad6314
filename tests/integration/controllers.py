"""Controllers beside a cluster's own: another config, the same or another database, and requests to them as bytes."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from arv_ssh.api.client import ApiClient
from arv_ssh.config import cluster_config
from arv_ssh.net import upgrade
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.timing import DEADLINE, wait_for

CLUSTER_ID = "zzzzz"


class Controller:
    """A controller process at ``address`` ("host:port"), whose certificate the CA file ``ca`` vouches for."""

    def __init__(self, address: str, ca: Path, root_token: str, log: Path, pid: int = 0) -> None:
        self.address = address
        self.pid = pid
        self.root_token = root_token
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
        headers.append(upgrade.SAME_USERNAME)
        form = {"login_username": "", "detach_keys": ""}
        connection.sendall(
            upgrade.request("POST", f"/arvados/v1/containers/{uuid}/ssh", self.address, headers, form)
        )
        answer = upgrade.UpgradeAnswer("the controller")
        while not answer.receive(connection.recv(65536)):
            pass
        return answer, connection

    def asked(self, uuid: str, token: str) -> int:
        """Return the status of the answer to the question whether this token may enter, which opens nothing."""
        headers = [("Authorization", f"Bearer {token}")] if token else []
        with self.connect() as connection:
            connection.sendall(upgrade.plain_request(f"/arvados/v1/containers/{uuid}/ssh", self.address, headers))
            answer = upgrade.UpgradeAnswer("the controller")
            while not answer.receive(connection.recv(65536)):
                pass
        return answer.status

    def status(self, uuid: str, token: str) -> tuple[int, str]:
        """Return the status of the answer to a request for a session, and its one sentence ("" with 101)."""
        answer, connection = self.ask_for_session(uuid, token)
        connection.close()
        if answer.status == 101:
            return 101, ""
        body = json.loads(answer.body)
        assert len(body["errors"]) == 1 and body["request_id"].startswith("req-")
        return answer.status, str(body["errors"][0])


def ssh_config(cluster: EmbeddedCluster, address: str, directory: Path) -> Path:
    """Write the config of stock ssh for the active user's way into containers through ``address``; return its path."""
    token = cluster.directory.token_file("active").read_text().strip()
    settings = {"ARVADOS_API_HOST": address, "ARVADOS_API_TOKEN": token, "SSL_CERT_FILE": str(cluster.directory.ca)}
    environment = directory / "env"
    environment.write_text("".join(f"export {name}={value}\n" for name, value in settings.items()))
    environment.chmod(0o600)
    program = str(Path(sys.executable).with_name("arvados-client"))
    arguments = ["ssh-config", "--settings", str(environment), "--output-dir", str(directory)]
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    return directory / "ssh_config"


@contextmanager
def controller(
    cluster: EmbeddedCluster,
    directory: Path,
    shell_access: dict[str, Any],
    host: str = "127.0.0.1",
    port: int = 0,
    **section: Any,
) -> Iterator[Controller]:
    """Run a controller with the certificates and root token of ``cluster``, stopped at the end of the block.

    It listens on ``host`` and ``port`` (0: a free one); its ``address`` is on the loopback. ``section`` overrides keys
    of the cluster's own config: its database, unless another is given, is shared.
    """
    file = write_config(cluster, directory, shell_access, **section)
    with started(cluster, directory, ["--config", str(file)], host, port) as running:
        yield running


@contextmanager
def started(
    cluster: EmbeddedCluster, directory: Path, options: Sequence[str], host: str = "127.0.0.1", port: int = 0
) -> Iterator[Controller]:
    """Run a controller with these options on ``port`` (0: a free one) until the end of the block.

    Its log is in ``directory``.
    """
    options = [*options, "--listen", f"{host}:{port}", "--drain-timeout", "0"]
    with start(cluster, None, directory / "controller.log", options) as process:
        yield process.wait_until_it_listens()


def write_config(
    cluster: EmbeddedCluster, directory: Path, shell_access: dict[str, Any], **section: Any
) -> Path:
    """Write the config of a controller beside the cluster's own, and return its path."""
    own = yaml.safe_load(cluster.directory.config.read_text())["Clusters"][CLUSTER_ID]
    merged = {key: value for key, value in (own | section).items() if value is not None}
    merged["Containers"] = own["Containers"] | {"ShellAccess": shell_access}
    file = directory / "config.yml"
    file.write_text(yaml.safe_dump({"Clusters": {CLUSTER_ID: merged}}))
    return file


class ControllerProcess:
    """A process of ``arv-ssh controller`` (a supervisor, with ``--workers``) and its log."""

    def __init__(self, popen: subprocess.Popen[bytes], cluster: EmbeddedCluster, log: Path) -> None:
        self.popen = popen
        self.log = log
        self._cluster = cluster

    def events(self, message: str) -> list[dict[str, Any]]:
        """Return the log's lines with a message."""
        lines = (line for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [record for line in lines if (record := json.loads(line))["msg"] == message]

    def wait_for_event(self, message: str, number: int = 1) -> list[dict[str, Any]]:
        """Wait until the log has ``number`` lines with a message; return them."""
        def look() -> list[dict[str, Any]] | None:
            assert self.popen.poll() is None or len(self.events(message)) >= number, self.log.read_text()
            return found if len(found := self.events(message)) >= number else None

        return wait_for(look, message)

    def wait_until_it_listens(self, number: int = 1) -> Controller:
        """Return the controller once ``number`` of its processes serve."""
        port = self.wait_for_event("controller is listening", number)[-1]["port"]
        root_token = cluster_config.load(self._cluster.directory.config).system_root_token
        return Controller(f"127.0.0.1:{port}", self._cluster.directory.ca, root_token, self.log, self.popen.pid)


@contextmanager
def start(
    cluster: EmbeddedCluster,
    file: Path | None,
    log: Path,
    options: Sequence[str],
    wrapper: Sequence[str] = (),
    **popen: Any,
) -> Iterator[ControllerProcess]:
    """Start a controller with the config ``file``, stopped at the end of the block; ``wrapper`` executes it."""
    command = [*wrapper, str(Path(sys.executable).with_name("arv-ssh")), "controller"]
    command += ["--config", str(file)] if file else []
    # The cluster's own controller is none of its siblings.
    command += ["--run-dir", str(log.with_name("run")), *options]
    environment = os.environ | {"SSL_CERT_FILE": str(cluster.directory.ca)}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, **popen
        )
    try:
        yield ControllerProcess(process, cluster, log)
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


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
