"""Where a cell is played: a cluster of its own on small disks, a container in it, and a user with stock ssh.

Owns what is built, who the victims are, and how each is put right again. Knows nothing of what is expected.
"""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from arv_ssh.processes import process_lock
from tests.faults import arvados, engine, network, processes
from tests.faults.sessions import Session
from tests.integration.controllers import CLUSTER_ID, submit
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.postgresql import PostgresqlServer, postgresql_server
from tests.timing import DEADLINE, wait_for

DISK = "24m"
"""Size of each small disk."""
DISKS = ("db", "log", "audit", "run", "dispatch", "home")
FOREVER = ["sleep", "1000000"]
PLAIN, POSTGRESQL, ENGINE, NETWORK, ARVADOS = "plain", "postgresql", "engine", "network", "arvados"
"""Kinds: with SQLite; with PostgreSQL; with a Docker engine of its own; with links to the user and to the node;
with a real Arvados' API beside it."""


class Cluster(EmbeddedCluster):
    """A cluster whose config is written once, with each thing that fills on a disk of its own."""

    def configure(self, database: str, url: str, audit: str) -> None:
        """Write the config."""
        directory = self.directory
        directory.prepare()
        access = {"Mode": "default-on", "Admin": True, "User": True, "Audit": audit,
                  "AuditDirectory": str(directory.root / "audit")}  # fmt: skip
        section = {
            "SystemRootToken": secrets.token_hex(32), "ManagementToken": secrets.token_hex(32),
            "Services": {"Controller": {"ExternalURL": url, "InternalURLs": {url: {}}}},
            "TLS": {"Certificate": f"file://{directory.server_certificate}", "Key": f"file://{directory.server_key}"},
            "Containers": {
                "ShellAccess": access,
                "LocalDispatch": {"PollInterval": 0.2, "LogDirectory": str(directory.container_log)},
            },
            "EmbeddedAPI": {"Database": database},
        }  # fmt: skip
        directory.config.write_text(yaml.safe_dump({"Clusters": {CLUSTER_ID: section}}))


class Stage:
    """One cluster. ``uuid`` is the container that sessions enter; it is replaced when it ends."""

    def __init__(self, root: Path, kind: str = PLAIN, audit: str = "on") -> None:
        self.root = root
        self.kind = kind
        self.audit = audit
        self.uuid = ""
        self.links: network.Links | arvados.Site | None = None
        self.engine: engine.Engine | None = None
        self.postgresql: PostgresqlServer | None = None
        self._stack = ExitStack()
        self._sessions = 0

    def __enter__(self) -> Stage:
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self) -> None:
        self.root.mkdir(parents=True)
        for name in DISKS:
            self._stack.enter_context(_small_disk(self.root / name))
        environment = {}
        if self.kind == ENGINE:
            self.engine = self._stack.enter_context(engine.own_engine(self.root / "engine"))
            environment = {"DOCKER_HOST": self.engine.url}
        self.cluster = Cluster(self.root, environment)
        self.directory = self.cluster.directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"https://127.0.0.1:{probe.getsockname()[1]}"
        self.cluster.configure(self._database(), url, self.audit)
        self._stack.callback(self._down)
        self.cluster.up()
        if self.kind == NETWORK:
            self.links = self._stack.enter_context(network.links(self.cluster, self.root))
        if self.kind == ARVADOS:
            uuid = self.cluster.run(*FOREVER)
            self.links = self._stack.enter_context(arvados.site(self.cluster, self.root, uuid))
        self.new_container()

    def _database(self) -> str:
        if self.kind != POSTGRESQL:
            return f"sqlite:///{self.root}/db/db.sqlite"
        self.postgresql = self._stack.enter_context(postgresql_server())
        return self.postgresql.url(self._stack.enter_context(self.postgresql.database()))

    def _down(self) -> None:
        done = self.cluster.arv_ssh("down", timeout=3 * DEADLINE)
        assert done.returncode == 0, done.stderr

    def new_container(self) -> None:
        """Run a container, and enter it once, so that what is made only once is made."""
        if self.links:
            self.uuid = self.links.new_container()
        else:
            self.uuid = self.cluster.run(*FOREVER)
        assert self.enter("true").returncode == 0

    def command(self) -> list[str]:
        """Return ssh's words up to the destination."""
        prefix, config = self.links.prefix_and_config() if self.links else ([], self._config())
        return [*prefix, "ssh", "-F", str(config), self.uuid]

    def _config(self) -> Path:
        """Return the user's ssh_config, in a home directory on a small disk; sessions end with their connections."""
        config = self.root / "home" / "ssh_config"
        if not config.exists():
            words = ["--settings", str(self.directory.env), "--output-dir", str(config.parent), "--no-control-master"]
            words += ["--resume-for", "0"]
            program = str(Path(self.cluster.command("up")[0]).with_name("arvados-client"))
            subprocess.run([program, "ssh-config", *words], check=True, capture_output=True, timeout=DEADLINE)
        return config

    def environment(self) -> dict[str, str]:
        """Return ssh's environment."""
        if self.links:
            return self.links.environment
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.root / "home"), "LANG": "C.UTF-8"}

    def enter(self, command: str, timeout: float = DEADLINE) -> subprocess.CompletedProcess[str]:
        """Run a command in the container through stock ssh, to its end."""
        return subprocess.run(
            [*self.command(), command], env=self.environment(), capture_output=True, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def place_for_session(self) -> Path:
        """Return a directory for a session's files, which is not there yet."""
        self._sessions += 1
        return self.root / f"session-{self._sessions}"

    def docker(self, *arguments: str) -> str:
        """Run the docker command with the cluster's engine; return what it printed."""
        url = ["-H", self.engine.url] if self.engine else []
        return subprocess.run(
            ["docker", *url, *arguments], capture_output=True, text=True, timeout=DEADLINE, check=True
        ).stdout.strip()

    # The victims.

    def pids(self, victim: str, session: Session | None = None) -> list[int]:
        """Return the victim's processes, the one that counts first."""
        if victim == "ssh-proxy":
            assert session is not None
            return [pid for pid in processes.descendants(session.process.pid) if _is_proxy(pid)][:1]
        return {
            "controller": self._controller, "gateway": self._gateway, "crunch-run": self._crunch_run,
            "dispatcher": self._dispatcher, "engine": self._engine, "shim": self._shim, "database": self._postgresql,
            "API": self._api,
        }[victim]()  # fmt: skip

    def controller_pid(self) -> int:
        """Return the pid of the controller that the user's session goes through."""
        return self.links.controller.pid if self.links else self.cluster.controller_pid()

    def crunch_run_pid(self) -> int:
        """Return the pid of the container's crunch-run."""
        return self.links.crunch_run_pid() if self.links else self.cluster.crunch_run_pid(self.uuid)

    def gateway_pid(self) -> int:
        """Return the gateway's pid: a child of crunch-run titled so, else crunch-run, which has the gateway inside."""
        above = self.crunch_run_pid()
        own = [pid for pid in processes.children(above) if "gateway" in processes.command_line(pid).split("-c")[0]]
        return own[0] if own else above

    def gateway_is_apart(self) -> bool:
        """Say whether the gateway is a process of its own."""
        return self.gateway_pid() != self.crunch_run_pid()

    def _controller(self) -> list[int]:
        return [self.controller_pid()]

    def _gateway(self) -> list[int]:
        return [self.gateway_pid()]

    def _crunch_run(self) -> list[int]:
        return [self.crunch_run_pid()]

    def _dispatcher(self) -> list[int]:
        pid = process_lock.holder_pid(self.directory.dispatcher_lock)
        assert pid is not None
        return [pid]

    def _engine(self) -> list[int]:
        assert self.engine is not None
        return self.engine.pids()

    def _shim(self) -> list[int]:
        return [processes.parent(self.first_process())]

    def _postgresql(self) -> list[int]:
        assert self.postgresql is not None and self.postgresql._process is not None
        first = self.postgresql._process.pid
        return [first, *processes.descendants(first)]

    def _api(self) -> list[int]:
        assert isinstance(self.links, arvados.Site)
        return [self.links.api.pid()]

    def first_process(self) -> int:
        """Return the pid of the container's first process."""
        return int(self.docker("inspect", "-f", "{{.State.Pid}}", self.uuid))

    # What is known of the container, and putting things right.

    def record(self) -> dict[str, Any]:
        """Return the container's record."""
        return self.cluster.container(self.uuid)

    def open_sessions(self) -> int:
        """Return how many sessions the controller says are open."""
        import ssl
        import urllib.request

        config = yaml.safe_load(self.directory.config.read_text())["Clusters"][CLUSTER_ID]
        base = config["Services"]["Controller"]["ExternalURL"]
        if self.links:
            base = f"https://{self.links.controller.address}"
        request = urllib.request.Request(f"{base}/arvados/v1/shell_sessions")
        request.add_header("Authorization", f"Bearer {config['SystemRootToken']}")
        context = ssl.create_default_context(cafile=str(self.directory.ca))
        with urllib.request.urlopen(request, timeout=DEADLINE, context=context) as answer:
            return len(json.load(answer)["items"])

    def put_right(self, victim: str) -> str:
        """Start again what was killed, as an administrator or systemd would; return what had to be done."""
        done = []
        if self.postgresql is not None and not processes.is_alive(self._postgresql()[0]):
            self.postgresql.start()
            done.append("PostgreSQL started again")
        if self.engine is not None and not self.engine.runs():
            self.engine.start()
            done.append("engine started again")
        if isinstance(self.links, arvados.Site) and not self.links.api.runs():
            self.links.api.start()
            done.append("API started again")
        if not self.links:
            missing = [name for name in ("controller", "dispatcher")
                       if not process_lock.is_held(getattr(self.directory, f"{name}_lock"))]  # fmt: skip
            if missing:
                self.cluster.up()
                done.append(f"{' and '.join(missing)} started again")
        return ", ".join(done)

    def wait_until_over(self, patience: float) -> str:
        """Wait until the record has the container's end; return its state, or "Running" where it goes on."""
        try:
            return str(wait_for(self._final_state, "the record", patience))
        except AssertionError:
            return str(self.record()["state"])

    def _final_state(self) -> str | None:
        state = str(self.record()["state"])
        return state if state in ("Cancelled", "Complete") else None

    def ask_for_container(self) -> str:
        """Submit a request and return its container's UUID; nobody waits for it."""
        request = submit(self.cluster.api(), "zzzzz-tpzed-xurymjxw79nv3jz")
        return str(request["container_uuid"])


def _is_proxy(pid: int) -> bool:
    words = processes.command_line(pid)
    return "ssh-proxy" in words and "gate.py" not in words and not words.startswith("sh ")


@contextmanager
def _small_disk(path: Path) -> Iterator[None]:
    path.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "none", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Fill the disk at ``path`` until the end of the block."""
    filler = path / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        pass  # full
    try:
        yield
    finally:
        filler.unlink()
