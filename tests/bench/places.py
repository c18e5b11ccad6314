"""The places that are compared, each started when a row first asks for it and ended with the run.

sshd: stock OpenSSH sshd in a container, on loopback. chain: the same sshd through TLS hops of socat. gateway: our SSH
server alone, on TCP, executing in that container. path: an embedded cluster's container, through all of our hops.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from arv_ssh.cli import certificates
from tests.bench.target import Failed, Target, run
from tests.integration.embedded_cluster import EmbeddedCluster, docker, docker_container

IMAGE = "arv-ssh/sshd:test"
FILES = "/bench"
"""A file system in memory in each container, so that no disk is measured."""
START_TIMEOUT = 60.0
SSHD = (
    "mkdir -p /run/sshd && exec /usr/sbin/sshd -D -e -f /dev/null -p {port} -o ListenAddress=127.0.0.1 -o UsePAM=no"
    " -o UseDNS=no -o PermitRootLogin=yes -o StrictModes=no -o AuthorizedKeysFile=/keys/id.pub -o PidFile=none"
    " -o 'Subsystem=sftp /usr/lib/openssh/sftp-server' -o MaxStartups=1000 -o MaxSessions=100"
)


class Places:
    """All places of one run; files go to ``directory``. A place is made by asking for it; ``stack`` ends them."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.stack = stack

    @cached_property
    def sshd_container(self) -> str:
        """The id of the container in which sshd runs, with the host's network."""
        keys = self.directory / "keys"
        keys.mkdir()
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / "id")])
        engine = ["-v", "/var/run/docker.sock:/var/run/docker.sock", "-v", f"{_docker()}:/usr/bin/docker:ro"]
        container = docker(
            "run", "-d", "--rm", "--network", "host", "--tmpfs", f"{FILES}:exec,size=8g", "-v", f"{keys}:/keys:ro",
            # Without the engine's filter, which costs time in each system call: the reference has every advantage.
            "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
            *engine, IMAGE, "sh", "-c", SSHD.format(port=self.sshd_port),
        )  # fmt: skip
        self.stack.callback(docker, "rm", "-f", container)
        wait_for(lambda: _connects(self.sshd_port), "sshd to listen")
        return container

    @cached_property
    def sshd_port(self) -> int:
        """The port of 127.0.0.1 on which sshd listens."""
        return free_port()

    @cached_property
    def sshd(self) -> Target:
        """Stock sshd on loopback."""
        return self._target("sshd", f"Port {self.sshd_port}")

    @cached_property
    def chain(self) -> Target:
        """That sshd through as many TLS hops as our whole path has, each of them socat."""
        ports = self.sshd_port, free_port(), free_port()
        issued = certificates.issue("zzzzz")
        pem = self.directory / "hops.pem"
        pem.write_bytes(issued.server + issued.server_key)
        self.sshd  # noqa: B018 - started first
        for listen, onward in ((ports[1], f"TCP:127.0.0.1:{ports[0]},nodelay"), (ports[2], _tls(ports[1]))):
            door = f"OPENSSL-LISTEN:{listen},bind=127.0.0.1,cert={pem},verify=0,reuseaddr,fork,nodelay,backlog=1024"
            self.start(["socat", door, onward])
            wait_for(lambda port=listen: _connects(port), "socat to listen")  # type: ignore[misc]
        return self._target("chain", f"ProxyCommand socat - {_tls(ports[2])}")

    @cached_property
    def gateway(self) -> Target:
        """Our SSH server alone on TCP, with a process for itself."""
        port = free_port()
        self.gateway_process = self.start(
            [sys.executable, "-m", "tests.bench.bare_gateway", self.sshd_container, str(port)]
        )
        wait_for(lambda: _connects(port), "the gateway to listen")
        return self._target("gateway", f"Port {port}\n    User _\n    PreferredAuthentications none")

    @cached_property
    def cluster(self) -> EmbeddedCluster:
        """An embedded cluster."""
        cluster = EmbeddedCluster(self.directory / "cluster")
        cluster.up()
        self.stack.callback(cluster.down)
        return cluster

    @cached_property
    def container_uuid(self) -> str:
        """A running container of that cluster."""
        files = self._memory("files")
        return self.cluster.run("sleep", "1000000", image=IMAGE, options=("--mount", f"{files}:{FILES}"))

    @cached_property
    def engine_container(self) -> str:
        """The engine's id of that container."""
        return docker_container(self.container_uuid)

    @cached_property
    def path(self) -> Target:
        """That container through ssh-proxy, controller and gateway."""
        uuid = self.container_uuid
        return Target(self.cluster.directory.ssh_config, uuid)

    @cached_property
    def ending(self) -> Target:
        """The same, where sessions end with their connection: by a copy of the user's ssh_config that says so."""
        config = self.directory / "no-resume.ssh_config"
        text = self.path.config.read_text()
        if " ssh-proxy " not in text:
            raise Failed(f"{self.path.config} does not start ssh-proxy")
        config.write_text(text.replace(" ssh-proxy ", " ssh-proxy --no-resume "))
        return Target(config, self.path.host)

    def file(self, size: int) -> Path:
        """Return a file of ``size`` bytes of this machine, in memory."""
        path = self._memory("local") / str(size)
        if not path.exists():
            path.write_bytes(os.urandom(1 << 20) * (size >> 20))
        return path

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a program that is ended with the run, and what it has started with it."""
        log = (self.directory / "log").open("ab")
        self.stack.callback(log.close)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.stack.callback(_end, process)
        return process

    def _memory(self, name: str) -> Path:
        path = Path("/dev/shm") / f"arv-ssh-bench-{os.getpid()}" / name  # noqa: S108
        if not path.exists():
            path.mkdir(parents=True, mode=0o700)
            self.stack.callback(shutil.rmtree, path.parent, ignore_errors=True)
        return path

    def _target(self, name: str, how: str) -> Target:
        self.sshd_container  # noqa: B018 - started first
        config = self.directory / f"{name}.ssh_config"
        config.write_text(
            f"Host *\n    HostName 127.0.0.1\n    {how}\n    User root\n    IdentityFile {self.directory}/keys/id\n"
            f"    UserKnownHostsFile {self.directory}/known_hosts.{name}\n    StrictHostKeyChecking accept-new\n"
            "    IdentitiesOnly yes\n"
        )
        return Target(config, name)


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now; for programs that cannot say which one they took."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_for(look: Callable[[], object], what: str) -> None:
    """Look until there is something to see."""
    deadline = time.monotonic() + START_TIMEOUT
    while not look():
        if time.monotonic() > deadline:
            raise Failed(f"waited {START_TIMEOUT:g} s for {what}")
        time.sleep(0.05)


def _tls(port: int) -> str:
    return f"OPENSSL:127.0.0.1:{port},verify=0,nodelay"


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _docker() -> str:
    program = shutil.which("docker")
    if program is None:
        raise Failed("the program docker is missing; install docker.io (in newer Debian: docker-cli)")
    return program


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it has ended by itself
    process.wait()
