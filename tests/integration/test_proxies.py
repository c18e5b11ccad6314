"""Controllers behind nginx and HAProxy, as the templates set them up: what passes through, and what does not."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from arv_ssh.config import cluster_config
from arv_ssh.net import upgrade
from arv_ssh.net.tls import TlsEngine
from arv_ssh.trust import credentials
from crunch_sshd.gateway import certificate
from tests.integration.controllers import Controller, controller, new_user, ssh_config, submit
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.proxies import PROXIES, filled, free_port, run_nginx
from tests.postgresql import postgresql_server
from tests.timing import DEADLINE, wait_for

POLICY = {"Mode": "default-on", "Admin": True, "User": True}
MIB = 1 << 20


class TlsStream:
    """A blocking TLS connection whose directions end one at a time, as SSLSocket's cannot."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        self._plain = plain
        self._plain.settimeout(DEADLINE)
        self._engine = TlsEngine(context, server_side=server_hostname is None, server_hostname=server_hostname)
        while not self._engine.handshake():
            self._flush()
            self._engine.receive(self._plain.recv(65536))
        self._flush()

    def send(self, data: bytes) -> None:
        self._engine.write(data)
        self._flush()

    def end(self) -> None:
        """End our direction, and nothing else."""
        self._engine.write_eof()
        self._flush()

    def read(self) -> bytes:
        """Return some bytes; none at the other direction's end."""
        while not (data := self._engine.read()) and not self._engine.eof:
            self._engine.receive(self._plain.recv(65536))
            self._flush()
        return data

    def read_to_end(self) -> bytes:
        return b"".join(iter(self.read, b""))

    def close(self) -> None:
        self._plain.close()

    def _flush(self) -> None:
        self._plain.sendall(self._engine.outgoing())


class EchoGateway:
    """A gateway whose "SSH" is: take all until the client's end, or those words, then send that back, then end."""

    def __init__(self, root_token: str) -> None:
        self._root_token = root_token
        self._context, self._certificate = certificate.fresh()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._session, args=(connection,), daemon=True).start()

    def _session(self, connection: socket.socket) -> None:
        with closing(TlsStream(connection, self._context)) as stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += stream.read()
            head, _, rest = data.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
            length = int(headers["Content-Length"])
            while len(rest) < length:
                rest += stream.read()
            secret = credentials.container_secret(self._root_token, headers["X-Arvados-Container-Gateway-Uuid"])
            proof = credentials.respond_auth(secret, credentials.request_auth(secret, self._certificate))
            stream.send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: ssh\r\n"
                b"X-Arvados-Authorization-Response: " + proof.encode() + b"\r\n\r\nfrom the gateway\n"
            )
            data = rest[length:]
            with suppress(OSError, ssl.SSLError):  # the client, or its proxy, is gone
                while not data.endswith(b"end of input") and (more := stream.read()):
                    data += more
                stream.send(data)
                stream.end()

    def close(self) -> None:
        self._listener.close()


@dataclass(frozen=True)
class Scene:
    """A proxy's address, and a container of the active user whose gateway is an :class:`EchoGateway`."""

    kind: str
    proxy: str
    controller: Controller
    gateway: EchoGateway
    uuid: str
    token: str
    ca: Path
    directory: Path

    def logs(self) -> str:
        """Return what both controllers have logged."""
        return "".join(path.read_text() for path in sorted(self.directory.glob("*/controller.log")))

    def stream(self) -> TlsStream:
        context = ssl.create_default_context(cafile=str(self.ca))
        plain = socket.create_connection(("127.0.0.1", int(self.proxy.rpartition(":")[2])), DEADLINE)
        return TlsStream(plain, context, "localhost")

    def request(self, uuid: str, *, connection: bool = True) -> bytes:
        headers = [("Authorization", f"Bearer {self.token}")]
        wish = upgrade.request("POST", f"/arvados/v1/containers/{uuid}/ssh", self.proxy, headers, {"detach_keys": ""})
        return wish if connection else wish.replace(b"Connection: upgrade\r\n", b"")


def answered(stream: TlsStream) -> upgrade.UpgradeAnswer:
    answer = upgrade.UpgradeAnswer("the controller")
    while not answer.receive(stream.read()):
        pass
    return answer


@contextmanager
def two_behind(
    cluster: EmbeddedCluster, proxy: str, directory: Path, **section: Any
) -> Iterator[tuple[Controller, str]]:
    """Run two controllers behind ``proxy``; give the first one, and the proxy's address ("none": the first's own)."""
    names = ("first", "second", "proxy")
    for name in names:
        (directory / name).mkdir()
    one, two, before = (directory / name for name in names)
    with (
        controller(cluster, one, POLICY, **section) as first,
        controller(cluster, two, POLICY, **section) as second,
        PROXIES.get(proxy, no_proxy)(cluster, before, (first.address, second.address)) as address,
    ):
        yield first, address


@contextmanager
def no_proxy(cluster: EmbeddedCluster, directory: Path, controllers: Sequence[str]) -> Iterator[str]:
    """For comparison."""
    yield controllers[0]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Give the URL of an empty database in PostgreSQL."""
    with postgresql_server() as server, server.database() as name:
        yield server.url(name)


@pytest.fixture(scope="module", params=["none", *PROXIES])
def scene(
    request: pytest.FixtureRequest, cluster: EmbeddedCluster, database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """Two controllers that share a database in PostgreSQL, behind each kind of proxy; no dispatcher is there."""
    gateway = EchoGateway(cluster_config.load(cluster.directory.config).system_root_token)
    directory = tmp_path_factory.mktemp("scene")
    with two_behind(cluster, request.param, directory, EmbeddedAPI={"Database": database}) as (first, address):
        user, token = new_user(first.root, f"user{request.param}")
        uuid = str(submit(first.root, user)["container_uuid"])
        first.root.lock(uuid)
        first.root.update("containers", uuid, {"state": "Running", "gateway_address": gateway.address})
        yield Scene(request.param, address, first, gateway, uuid, token, cluster.directory.ca, directory)
    gateway.close()


@pytest.mark.parametrize("connection", [True, False])
def test_upgrade(scene: Scene, connection: bool) -> None:
    """The upgrade passes through, with the gateway's first bytes, also without the header Connection."""
    with closing(scene.stream()) as stream:
        stream.send(scene.request(scene.uuid, connection=connection))
        answer = answered(stream)
        assert answer.status == 101 and answer.headers["upgrade"] == "ssh" and answer.headers["x-request-id"]
        data = answer.trailing
        while len(data) < len(b"from the gateway\n"):
            data += stream.read()
        assert data == b"from the gateway\n"


def test_early_bytes(scene: Scene) -> None:
    """What the client sends glued to its request arrives at the gateway, before all that comes later."""
    with closing(scene.stream()) as stream:
        stream.send(scene.request(scene.uuid) + b"early ")
        answer = answered(stream)
        assert answer.status == 101
        stream.send(b"late end of input")
        came = answer.trailing
        while not came.endswith(b"end of input"):
            came += stream.read()
        assert came == b"from the gateway\nearly late end of input"


def test_half_close(scene: Scene) -> None:
    """After the client's end the gateway's answer still comes; nginx alone ends both directions with the first."""
    with closing(scene.stream()) as stream:
        stream.send(scene.request(scene.uuid))
        answer = answered(stream)
        stream.send(b"all")
        stream.end()
        if scene.kind != "nginx":
            assert answer.trailing + stream.read_to_end() == b"from the gateway\nall"
        else:
            with pytest.raises((OSError, ssl.SSLError)):
                stream.read_to_end()
            # What the docs promise: the session is over on the other side too, nothing stays open.
            wait_for(lambda: "session closed" in scene.logs(), "the session to end")


def test_errors(scene: Scene) -> None:
    """The controller's status and sentence are what the client gets."""
    for uuid, token, status in (
        ("zzzzz-dz642-000000000000000", scene.token, 404), (scene.uuid, "", 401), (scene.uuid, "nonsense", 401),
    ):  # fmt: skip
        direct = scene.controller.status(uuid, token)
        proxied = Controller(scene.proxy, scene.ca, "", scene.controller.log).status(uuid, token)
        assert proxied == direct and direct[0] == status


def test_peer_address(scene: Scene) -> None:
    """The session's log has the client's address: nginx tells it, HAProxy passes TLS through and cannot."""
    with closing(scene.stream()) as stream:
        stream.send(scene.request(scene.uuid).replace(b"\r\n", b"\r\nX-Forwarded-For: 192.0.2.66\r\n", 1))
        answer = answered(stream)
        assert answer.status == 101
    mine = f'"request_id": "{answer.headers["x-request-id"]}"'
    opened = wait_for(
        lambda: [line for line in scene.logs().splitlines() if '"session opened"' in line and mine in line]
    )
    # Nothing of what the client says of itself counts behind nginx; without it, the loopback is taken for a proxy.
    assert json.loads(opened[0])["peer"] == ("127.0.0.1" if scene.kind == "nginx" else "192.0.2.66")


@pytest.mark.parametrize("proxy", PROXIES)
def test_transfer(cluster: EmbeddedCluster, busybox: str, tmp_path: Path, proxy: str) -> None:
    """100 MB each way through stock ssh are exact."""
    data = random.Random(0).randbytes(100 * MIB)
    with two_behind(cluster, proxy, tmp_path) as (_, address):
        ssh = ["ssh", "-F", str(ssh_config(cluster, address, tmp_path)), "-o", "ControlPath=none", busybox, "cat"]
        done = subprocess.run(ssh, input=data, capture_output=True, timeout=2 * DEADLINE)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("tunnels", [False, True], ids=["shells", "tunnels-too"])
def test_location_in_front_of_arvados(cluster: EmbeddedCluster, tmp_path: Path, tunnels: bool) -> None:
    """In an existing server block, one location takes to arv-ssh what is its own, tunnels if wanted, no more."""
    upstream, location = filled("nginx-arvados.conf", {}).split("# --- into the server block ---\n")
    port, api_port = free_port(), free_port()
    with controller(cluster, tmp_path, POLICY) as ours:
        changes = {
            "127.0.0.1:9004": ours.address,
            "/etc/ssl/certs/arv-ssh-ca.pem": str(cluster.directory.ca),
            "proxy_ssl_name zzzzz.example.org": "proxy_ssl_name localhost",
            "[^/]+/ssh|": "[^/]+/(ssh|gateway_tunnel)|" if tunnels else "[^/]+/ssh|",
        }
        site = f"""
            UPSTREAM
            server {{ listen 127.0.0.1:{api_port}; location / {{ return 418 "stock Arvados $request_uri"; }} }}
            server {{
                listen 127.0.0.1:{port} ssl;
                ssl_certificate {cluster.directory.server_certificate};
                ssl_certificate_key {cluster.directory.server_key};
                location / {{ proxy_pass http://127.0.0.1:{api_port}; }}
                LOCATION
            }}
        """
        content = site.replace("UPSTREAM", upstream).replace("LOCATION", location)
        for old, new in changes.items():
            assert old in content
            content = content.replace(old, new)
        session = requests.Session()
        session.trust_env, session.verify = False, str(cluster.directory.ca)
        with run_nginx(tmp_path, content, port) as address, session:
            uuid = "zzzzz-dz642-000000000000000"
            shells = [f"containers/{uuid}/ssh", f"connect/{uuid}/ssh", "shell_sessions/ses-0/kill"]
            tunnel_paths = [f"containers/{uuid}/gateway_tunnel", f"connect/{uuid}/gateway_tunnel"]
            for path in shells + (tunnel_paths if tunnels else []):
                answer = session.post(f"https://{address}/arvados/v1/{path}", timeout=DEADLINE)
                assert answer.status_code in (400, 401) and len(answer.json()["errors"]) == 1, answer.text
            others = ["containers", f"containers/{uuid}", f"containers/{uuid}/ssh/more", "users/current"]
            for path in others + ([] if tunnels else tunnel_paths):
                answer = session.get(f"https://{address}/arvados/v1/{path}", timeout=DEADLINE)
                assert (answer.status_code, answer.text) == (418, f"stock Arvados /arvados/v1/{path}")
