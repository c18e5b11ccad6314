"""One embedded cluster for tests, driven through ``arv-ssh cluster`` as a person would."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from arv_ssh.api.client import ApiClient
from arv_ssh.cli import cluster_up
from arv_ssh.cli.cluster_dir import ClusterDir
from arv_ssh.config import cluster_config
from arv_ssh.processes import process_lock
from crunch_sshd.runtimes import host_processes
from tests.timing import DEADLINE, wait_for

BUSYBOX = "arv-ssh/busybox:test"


class EmbeddedCluster:
    """The cluster in ``root``. ``environment`` is added to that of every command."""

    def __init__(self, root: Path, environment: dict[str, str] | None = None) -> None:
        self.directory = ClusterDir(root)
        self.environment = environment or {}

    def arv_ssh(self, *arguments: str, timeout: float = DEADLINE) -> subprocess.CompletedProcess[str]:
        """Run one ``arv-ssh cluster`` command to its end."""
        command = [*self.command(arguments[0]), *arguments[1:]]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=os.environ | self.environment
        )

    def command(self, action: str) -> list[str]:
        """Return the command line of an action, to which options can be added."""
        program = Path(sys.executable).with_name("arv-ssh")
        return [str(program), "cluster", action, "--dir", str(self.directory.root)]

    def up(self) -> dict[str, Any]:
        """Start the cluster; return what it printed."""
        return self._json(self.arv_ssh("up"))

    def down(self) -> dict[str, Any]:
        """Stop the cluster; return what it printed."""
        return self._json(self.arv_ssh("down", timeout=2 * DEADLINE))

    def configure_watching(self, audit: Path, recordings: Path) -> None:
        """Write the config with an audit that is required, and terminals recorded."""
        self.configure_access(
            Audit="required", AuditDirectory=str(audit), Recording="tty", RecordingDirectory=str(recordings)
        )

    def configure_access(self, **keys: Any) -> None:
        """Write the config with ``keys`` of ``Containers.ShellAccess``."""
        self.directory.prepare()
        cluster_up._write_config(self.directory)
        written = yaml.safe_load(self.directory.config.read_text())
        (section,) = written["Clusters"].values()
        section["Containers"]["ShellAccess"] |= keys
        self.directory.config.write_text(yaml.safe_dump(written))

    def run(self, *command: str, options: tuple[str, ...] = (), image: str = BUSYBOX) -> str:
        """Run a command in a new container; return the container's UUID once it is Running."""
        return str(self._json(self.arv_ssh("run", "--image", image, *options, "--", *command))["container_uuid"])

    def ssh(self, uuid: str, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container through stock ssh."""
        return subprocess.run(
            ["ssh", "-F", str(self.directory.ssh_config), uuid, command],
            capture_output=True, text=True, timeout=DEADLINE, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def api(self) -> ApiClient:
        """Return a client with the root token."""
        cluster = cluster_config.load(self.directory.config)
        return ApiClient(cluster.controller_url, cluster.system_root_token, verify=str(self.directory.ca))

    def container(self, uuid: str) -> dict[str, Any]:
        """Return a container's record."""
        return self.api().get("containers", uuid)

    def wait_for_state(self, uuid: str, state: str) -> dict[str, Any]:
        """Wait until a container has ended up in ``state``; return its record."""
        return wait_for(lambda: record if (record := self.container(uuid))["state"] == state else None)

    def crunch_run_lock(self, uuid: str) -> Path:
        """Return the lock file of a container's crunch-run."""
        return self.directory.dispatch_state / f"{uuid}.lock"

    def controller_pid(self) -> int:
        """Return the pid of the living controller."""
        pid = process_lock.holder_pid(self.directory.controller_lock)
        assert pid is not None
        return pid

    def crunch_run_pid(self, uuid: str) -> int:
        """Return the pid of a container's living crunch-run."""
        pid = process_lock.holder_pid(self.crunch_run_lock(uuid))
        assert pid is not None
        return pid

    def gateway_pid(self, uuid: str) -> int:
        """Return the pid of the process that serves a container's sessions: a child of its crunch-run."""

        def look() -> int | None:
            parent = self.crunch_run_pid(uuid)
            found = [one.pid for one in host_processes.processes() if one.parent == parent and one.state != "Z"]
            return next((pid for pid in found if b"gateway" in Path(f"/proc/{pid}/cmdline").read_bytes()), None)

        return wait_for(look, "the gateway's process")

    def log_text(self, uuid: str, name: str) -> str:
        """Return one of a container's log files: crunch-run.txt, stdout.txt, stderr.txt."""
        return (self.directory.container_log / uuid / name).read_text()

    @staticmethod
    def _json(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        return answer


class PostgresqlCluster(EmbeddedCluster):
    """A cluster whose database is the one in PostgreSQL at ``database``."""

    def __init__(self, root: Path, database: str) -> None:
        super().__init__(root)
        self.database = database

    def up(self) -> dict[str, Any]:
        """Start the cluster; its config is made here, and ``cluster up`` takes it as it stands."""
        directory = self.directory
        directory.prepare()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"https://127.0.0.1:{probe.getsockname()[1]}"
        section = {
            "SystemRootToken": secrets.token_hex(32),
            "ManagementToken": secrets.token_hex(32),
            "Services": {"Controller": {"ExternalURL": url, "InternalURLs": {url: {}}}},
            "TLS": {"Certificate": f"file://{directory.server_certificate}", "Key": f"file://{directory.server_key}"},
            "Containers": {
                "ShellAccess": {"Mode": "default-on", "Admin": True, "User": True},
                "LocalDispatch": {"PollInterval": 0.2, "LogDirectory": str(directory.container_log)},
            },
            "EmbeddedAPI": {"Database": self.database},
        }
        directory.config.write_text(yaml.safe_dump({"Clusters": {"zzzzz": section}}))
        return super().up()


def docker(*arguments: str) -> str:
    """Run the docker command; return what it printed."""
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=DEADLINE, check=True
    ).stdout.strip()


def docker_container(uuid: str) -> str:
    """Return the Docker id of an Arvados container, running or not; empty when there is none."""
    return docker("ps", "-aq", "--no-trunc", "--filter", f"label=arv-ssh.container-uuid={uuid}")
