"""Gateways that cannot be dialled: crunch-run in a network of its own, two controllers, and stock ssh."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from arv_ssh.api.client import ApiClient
from arv_ssh.config import cluster_config
from arv_ssh.dispatch.crunch_run import CrunchRun
from arv_ssh.net.tls import client_context
from arv_ssh.processes import process_lock
from arv_ssh.trust import credentials
from tests.integration import web_server
from tests.integration.breaker import Breaker
from tests.integration.conftest import FOREVER
from tests.integration.controllers import Controller, controller, new_user, ssh_config, started, submit, write_config
from tests.integration.embedded_cluster import EmbeddedCluster, docker_container
from tests.integration.people import ECHO, answers
from tests.stock.crunch_run import stock_tunnel
from tests.timing import DEADLINE, wait_for

POLICY = {"Mode": "default-on", "Admin": True, "User": True}
PROGRAMS = Path(sys.executable).parent
MEGABYTE = 1024 * 1024
DOMAIN = "containers.localhost"
PORT = 8765
"""A port of the container, which is published."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=DEADLINE)


@contextmanager
def network() -> Iterator[tuple[str, str]]:
    """Make a network namespace with one link to this machine; give its name, and this machine's address there."""
    name, number = f"arvssh{os.getpid()}", os.getpid() % 16384
    prefix = f"10.231.{number // 64}.{number % 64 * 4}".rpartition(".")
    here, there = (f"{prefix[0]}.{int(prefix[2]) + last}" for last in (1, 2))
    ip("netns", "add", name)
    try:
        ip("link", "add", f"{name}h", "type", "veth", "peer", "name", "uplink", "netns", name)
        ip("address", "add", f"{here}/30", "dev", f"{name}h")
        ip("link", "set", f"{name}h", "up")
        ip("-n", name, "address", "add", f"{there}/30", "dev", "uplink")
        ip("-n", name, "link", "set", "uplink", "up")
        ip("-n", name, "link", "set", "lo", "up")
        yield name, here
    finally:
        ip("netns", "delete", name)  # and with it both ends of the link, once nothing runs there


def free_port() -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])


class Site:
    """Two controllers on one database, ``near`` and ``far``, and a node from which only ``far`` can be reached."""

    def __init__(self, cluster: EmbeddedCluster, directory: Path, namespace: str, address: str) -> None:
        self.cluster = cluster
        self.directory = directory
        self.namespace = namespace
        self.address = address
        self.ports = {name: free_port() for name in ("near", "far")}
        self.urls = {name: f"https://127.0.0.1:{port}" for name, port in self.ports.items()}
        self.controllers: dict[str, Controller] = {}
        self._running: dict[str, ExitStack] = {}
        self.uuid = ""
        self.token = ""

    def start(self, name: str) -> None:
        """Start one of the controllers."""
        place = self.directory / f"{name}-{len(list(self.directory.glob(f'{name}-*')))}"  # a log for each start
        place.mkdir()
        stack = ExitStack()
        self.controllers[name] = stack.enter_context(
            controller(
                self.cluster, place, POLICY, host="0.0.0.0", port=self.ports[name],
                Services={
                    "Controller": {"InternalURLs": {url: {} for url in self.urls.values()}},
                    "ContainerWebServices": {"ExternalURL": f"https://*.{DOMAIN}"},
                },
                EmbeddedAPI={"Database": f"sqlite:///{self.directory}/db.sqlite"}, API={"MaxGatewayTunnels": 2},
            )
        )  # fmt: skip
        self._running[name] = stack

    def stop(self, name: str) -> None:
        """Stop it."""
        self._running.pop(name).close()

    def stop_all(self) -> None:
        """Stop what runs."""
        for name in list(self._running):
            self.stop(name)

    @property
    def root(self) -> ApiClient:
        """The API, as root."""
        return self.controllers["near"].root

    @property
    def gateway_address(self) -> str:
        """What the container's record has."""
        return str(self.root.get("containers", self.uuid)["gateway_address"] or "")

    def secret(self) -> str:
        token = cluster_config.load(self.cluster.directory.config).system_root_token
        return credentials.container_secret(token, self.uuid)

    @contextmanager
    def node(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run a container by a crunch-run that sits in the namespace, and end both."""
        user, self.token = new_user(self.root, "tunneller")
        published = {str(PORT): {"access": "private", "label": "a test's", "initial_path": ""}}
        request = submit(
            self.root, user, command=list(FOREVER), container_image="arv-ssh/debian:test", published_ports=published
        )
        self.uuid = request["container_uuid"]
        self.root.lock(self.uuid)
        token = self.root.container_auth(self.uuid)
        # Not "ip netns exec": that mounts another /sys, in which there are no control groups to enter.
        program = self.directory / "crunch-run"
        program.write_text(
            f'#!/bin/sh\nexec nsenter --net=/run/netns/{self.namespace} {PROGRAMS}/crunch-run "$@"\n'
        )
        program.chmod(0o755)
        api = f"{self.address}:{self.ports['far']}"
        runner = CrunchRun(
            program=program,
            system_root_token=cluster_config.load(self.cluster.directory.config).system_root_token,
            api_host=api,
            api_insecure=True,  # the certificate has no name for this address
            log_dir=self.directory / "log",
            gateway_tunnel=f"https://{api}",
        )
        lock = process_lock.acquire(self.directory / "lock")
        assert lock is not None
        child = runner.start(lock, self.uuid, f"v2/{token['uuid']}/{token['api_token']}")
        try:
            yield child
        finally:
            child.terminate()
            child.wait(DEADLINE)

    def log(self) -> str:
        """Return what crunch-run has logged."""
        return (self.directory / "log" / self.uuid / "crunch-run.txt").read_text()

    def ssh(self, name: str, *arguments: str) -> list[str]:
        """Return the command line of stock ssh through one of the controllers."""
        home = self.directory / f"home-{name}"
        if not home.exists():
            home.mkdir()
            settings = {"ARVADOS_API_HOST": f"127.0.0.1:{self.ports[name]}", "ARVADOS_API_TOKEN": self.token,
                        "SSL_CERT_FILE": str(self.cluster.directory.ca)}  # fmt: skip
            (home / "env").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
            options = ["--settings", str(home / "env"), "--output-dir", str(home), "--no-control-master"]
            subprocess.run([PROGRAMS / "arvados-client", "ssh-config", *options], check=True, timeout=DEADLINE)
        return ["ssh", "-F", str(home / "ssh_config"), *arguments[:-1], self.uuid, *arguments[-1:]]

    def run(self, name: str, *arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run ssh to its end."""
        return subprocess.run(self.ssh(name, *arguments), input=input, capture_output=True, timeout=DEADLINE)


@pytest.fixture(scope="module")
def site(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Both controllers, and a container whose gateway has its tunnel at ``far``."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    with network() as (namespace, address):
        one = Site(cluster, tmp_path_factory.mktemp("tunnels"), namespace, address)
        try:
            for name in ("near", "far"):
                one.start(name)
            with one.node() as crunch_run:
                wait_for(lambda: crunch_run.poll() is not None or one.gateway_address, "the gateway's address")
                yield one
        finally:
            one.stop_all()


def test_where_the_gateway_is(site: Site) -> None:
    """The record names the controller that has the tunnel, by its internal URL; the node listens on no port."""
    assert site.gateway_address == f"tunnel {site.urls['far']}/"
    listening = subprocess.run(
        ["ip", "netns", "exec", site.namespace, "ss", "-Hltn"], capture_output=True, text=True, check=True
    )
    assert listening.stdout == ""
    assert site.secret() not in site.log() + site.controllers["far"].log.read_text()


@pytest.mark.parametrize("name", ["far", "near"])
def test_a_command(site: Site, name: str) -> None:
    """A session enters at the controller with the tunnel, or at the other one, and its exit status comes back."""
    done = site.run(name, "hostname; echo told >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, f"{site.uuid}\n".encode(), b"told\n")


@pytest.mark.parametrize("name", ["far", "near"])
def test_transfers_are_exact(site: Site, name: str) -> None:
    """50 MB go in and come back, byte for byte."""
    payload = os.urandom(50 * MEGABYTE)
    done = site.run(name, "cat", input=payload)
    assert done.returncode == 0 and done.stdout == payload, done.stderr


@pytest.mark.parametrize("name", ["far", "near"])
def test_half_close(site: Site, name: str) -> None:
    """The end of the client's input passes, and what comes after it still arrives."""
    done = site.run(name, "wc -c; seq 1 100000 | tail -1", input=bytes(300_000))
    assert done.stdout.split() == [b"300000", b"100000"], done.stderr


@pytest.mark.parametrize("name", ["far", "near"])
def test_forwarding(site: Site, name: str) -> None:
    """A connection is forwarded into the container's own network through the tunnel."""
    serve = "python3 -c 'import socket; s = socket.create_server((\"127.0.0.1\", 8000)); print(flush=True); " \
            "c, _ = s.accept(); c.sendall(c.recv(99).upper())'"  # fmt: skip
    with subprocess.Popen(site.ssh(name, serve), stdout=subprocess.PIPE, stdin=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        command = [*site.ssh(name, "-W", "127.0.0.1:8000", "")[:-1]]
        done = subprocess.run(command, input=b"hello", capture_output=True, timeout=DEADLINE)
        assert done.stdout == b"HELLO", done.stderr
        assert server.wait(DEADLINE) == 0


def curl(site: Site, name: str, url: str, *options: str) -> tuple[int, str]:
    """Ask a controller for a URL, whatever host it names; return the status and the body."""
    command = ["curl", "-sS", "-k", "-w", "\n%{http_code}", "--connect-to", f"::127.0.0.1:{site.ports[name]}"]
    command += ["-H", f"Authorization: Bearer {site.token}", *options, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


@pytest.mark.parametrize("name", ["far", "near"])
def test_web_service(site: Site, name: str) -> None:
    """A port of the container is reached through either controller; bodies pass, and WebSockets open."""
    address = f"https://{site.uuid}-{PORT}.{DOMAIN}"
    serve = ["python3", "-c", Path(web_server.__file__).read_text(), str(PORT)]
    with subprocess.Popen(site.ssh(name, shlex.join(serve)), stdout=subprocess.PIPE, stdin=subprocess.PIPE) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == b"serving\n"
            status, body = curl(site, name, f"{address}/said", "-d", "x" * 100_000)
            said = json.loads(body)
            assert (status, said["body"], said["headers"]["host"]) == (200, 100_000, f"{site.uuid}-{PORT}.{DOMAIN}")
            assert "authorization" not in said["headers"] and "x-arvados-no-forward" not in said["headers"]
            plain = socket.create_connection(("127.0.0.1", site.ports[name]), DEADLINE)
            headers = {"Authorization": f"Bearer {site.token}"}
            with connect(
                f"wss://{site.uuid}-{PORT}.{DOMAIN}/socket", sock=plain, ssl=client_context(insecure=True),
                additional_headers=headers, open_timeout=DEADLINE,
            ) as opened:  # fmt: skip
                opened.send("hello")
                assert opened.recv(timeout=DEADLINE) == "hello back"
        finally:
            server.kill()
            site.run(name, f"pkill -f 'python3 -c.* {PORT}$'")
    assert curl(site, name, f"{address}/said")[0] == 502


@pytest.mark.parametrize("name", ["far", "near"])
def test_log(site: Site, name: str) -> None:
    """A live log is read through either controller, and a request is passed on only once."""
    request = site.root.list("container_requests", filters=[["container_uuid", "=", site.uuid]])["items"][0]["uuid"]
    url = f"https://{DOMAIN}/arvados/v1/container_requests/{request}/log/{site.uuid}"
    status, body = curl(site, name, url, "-X", "PROPFIND", "-H", "Depth: 1")
    assert status == 207 and f"/log/{site.uuid}/stderr.txt</D:href>" in body
    status, body = curl(site, name, f"{url}/stderr.txt?no_forward=true")
    assert status == (200 if name == "far" else 503), body
    assert name == "far" or "now has its tunnel at another controller" in body


def test_a_session_outlives_the_tunnel(site: Site) -> None:
    """The controller with the tunnel is started again in the middle of its session, which goes on when it is back."""
    command = site.ssh("far", "while read word; do echo got $word; done")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdin and session.stdout
        for word in ("before", "after"):
            session.stdin.write(f"{word}\n")
            session.stdin.flush()
            assert session.stdout.readline() == f"got {word}\n"
            if word == "before":
                site.stop("far")
                site.start("far")
        session.stdin.close()
        assert session.wait(DEADLINE) == 0


def test_a_session_outlives_its_controller(site: Site) -> None:
    """A session whose controller is gone goes on through another one, wherever the gateway has its tunnel."""
    with closing(Breaker(f"127.0.0.1:{site.ports['near']}")) as between:
        site.ports["between"] = int(between.address.rpartition(":")[2])
        with subprocess.Popen(
            site.ssh("between", ECHO), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as session:  # fmt: skip
            assert session.stdin and session.stdout and session.stdout.readline() == "ready\n"
            between.target = f"127.0.0.1:{site.ports['far']}"
            site.stop("near")
            answers(session, "at far")
            site.start("near")
            between.target = f"127.0.0.1:{site.ports['near']}"
            between.reset()
            answers(session, "at near again")
            session.stdin.close()
            assert session.wait(DEADLINE) == 0


def test_many_at_once(site: Site) -> None:
    """Eight sessions share one tunnel, and none waits for another that is idle."""
    with ExitStack() as stack:
        idle = [
            stack.enter_context(
                subprocess.Popen(site.ssh("far", "cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            for _ in range(4)
        ]
        for number in range(4):
            assert site.run("far", f"echo {number}").stdout == f"{number}\n".encode()
        for one in idle:
            out, _ = one.communicate(b"still here", DEADLINE)
            assert out == b"still here"


def ask_for_tunnel(site: Site, uuid: str, secret: str) -> tuple[int, str, Any]:
    """Ask the far controller for a tunnel; return status, sentence and the connection."""
    connection = site.controllers["far"].connect()
    body = f"auth_secret={secret}"
    connection.sendall(
        f"POST /arvados/v1/connect/{uuid}/gateway_tunnel HTTP/1.1\r\nHost: x\r\nUpgrade: tunnel\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    head, _, rest = connection.recv(65536).partition(b"\r\n\r\n")
    status = int(head.split()[1])
    return status, "" if status == 101 else str(json.loads(rest)["errors"][0]), connection


def test_refused_tunnels(site: Site) -> None:
    """A wrong secret is 401 and one tunnel too many 503, each with a sentence; the gateway's own goes on."""
    other = "zzzzz-dz642-000000000000000"
    status, sentence, connection = ask_for_tunnel(site, other, site.secret())
    connection.close()
    assert status == 401 and f"not that of container {other}" in sentence
    secret = credentials.container_secret(cluster_config.load(site.cluster.directory.config).system_root_token, other)
    status, _, held = ask_for_tunnel(site, other, secret)
    assert status == 101
    status, sentence, connection = ask_for_tunnel(site, other, secret)
    connection.close()
    assert status == 503 and "API.MaxGatewayTunnels: 2" in sentence
    held.close()
    assert site.run("far", "true").returncode == 0


def test_an_unknown_controller(site: Site) -> None:
    """A tunnel at a URL that is none of the cluster's controllers gets no token, and the user a sentence."""
    address = site.gateway_address
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        stranger.setblocking(False)
        url = f"https://127.0.0.1:{stranger.getsockname()[1]}/"
        site.root.update("containers", site.uuid, {"gateway_address": f"tunnel {url}"})
        try:
            done = site.run("near", "true")
            assert done.returncode == 255
            assert b"not one of this cluster's Services.Controller.InternalURLs" in done.stderr
            with pytest.raises(BlockingIOError):
                stranger.accept()
        finally:
            site.root.update("containers", site.uuid, {"gateway_address": address})


def test_a_controller_restarts(site: Site) -> None:
    """crunch-run comes back to it by itself; then an old session goes on, and new ones work at both."""
    with subprocess.Popen(site.ssh("near", "echo; cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as session:
        assert session.stdin and session.stdout
        session.stdout.readline()
        site.stop("far")
        done = site.run("near", "true")
        assert done.returncode == 255 and f"{site.urls['far']} cannot be reached".encode() in done.stderr
        wait_for(lambda: "no tunnel; trying again" in site.log())
        site.start("far")
        wait_for(lambda: site.run("far", "true").returncode == 0, "the tunnel to stand again")
        assert site.run("near", "echo back").stdout == b"back\n"
        assert site.gateway_address == f"tunnel {site.urls['far']}/"
        out, _ = session.communicate(b"still here\n", DEADLINE)
        assert (session.returncode, out) == (0, b"still here\n")


def test_several_processes_on_one_port(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """Whichever of a controller's processes a session comes to, it gets a stream from the one that has the tunnel."""
    uuid = cluster.run(*FOREVER)
    port = free_port()
    services: dict[str, Any] = {"Controller": {"InternalURLs": {f"https://127.0.0.1:{port}": {}}}}
    file = write_config(cluster, tmp_path, POLICY, Services=services)
    secret = credentials.container_secret(cluster_config.load(file).system_root_token, uuid)
    command: list[str | Path] = [PROGRAMS / "crunch-sshd", "--container-uuid", uuid]
    command += ["--docker-container", docker_container(uuid), "--gateway-auth-secret", "env:SECRET"]
    environment = os.environ | {"SECRET": secret, "SSL_CERT_FILE": str(cluster.directory.ca)}
    with started(cluster, tmp_path, ["--config", str(file), "--workers", "3"], port=port) as running:
        command += ["--gateway-tunnel", f"https://{running.address}"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        ) as gateway:
            try:
                assert gateway.stdout is not None
                address = gateway.stdout.readline().strip()
                assert address == f"tunnel https://127.0.0.1:{port}/"
                cluster.api().update("containers", uuid, {"gateway_address": address})
                ssh = ["ssh", "-F", str(ssh_config(cluster, running.address, tmp_path)), "-o", "ControlMaster=no", uuid]
                for number in range(8):  # the kernel chooses the process; that all eight meet the right one is unlikely
                    done = subprocess.run([*ssh, f"echo {number}"], capture_output=True, text=True, timeout=DEADLINE)
                    assert done.stdout == f"{number}\n", done.stderr
            finally:
                gateway.terminate()


def test_a_stock_crunch_run(cluster: EmbeddedCluster, debian: str) -> None:
    """A stock crunch-run's tunnel to our controller carries sessions to the loopback address on its record."""
    settings = cluster_config.load(cluster.directory.config)
    secret = credentials.container_secret(settings.system_root_token, debian)
    gateway = cluster.container(debian)["gateway_address"]
    host = settings.controller_url.removeprefix("https://")
    assert docker_container(debian)
    with stock_tunnel(host, cluster.directory.ca, debian, secret, gateway) as tunnel:
        assert f"x-arvados-internal-url: {settings.controller_url}/" in tunnel.answer.lower()
        payload = os.urandom(3 * MEGABYTE)
        command = ["ssh", "-F", str(cluster.directory.ssh_config), debian, "cat; exit 3"]
        done = subprocess.run(command, input=payload, capture_output=True, timeout=DEADLINE)
        assert done.returncode == 3 and done.stdout == payload, done.stderr
        assert tunnel.streams == 1
    assert cluster.ssh(debian, "echo direct").stdout == "direct\n"
