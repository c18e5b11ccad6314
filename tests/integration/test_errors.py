"""Bad input, and the one clear sentence each gets: from the client, from ssh, and in the answers over HTTP.

What ``arv-ssh cluster`` says of an image that does not exist and of an engine that is down is in test_cluster.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko
import pytest

from tests.integration.clients import transport_over
from tests.integration.conftest import FOREVER
from tests.integration.controllers import Controller, controller, new_user, submit
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.timing import DEADLINE, SECOND

NO_SUCH_CONTAINER = "zzzzz-dz642-000000000000000"
ARVADOS_CLIENT = str(Path(sys.executable).with_name("arvados-client"))
PROMPT = 20 * SECOND
"""For a refusal: two or three round trips, on a loaded machine."""


def refused_port() -> int:
    """Return a port of this machine where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Scene:
    """A controller without a dispatcher, its two users' tokens, and a container in each state."""

    controller: Controller
    token: str
    strangers_token: str
    containers: dict[str, str]


@pytest.fixture(scope="module")
def scene(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Containers whose states are written by hand: no dispatcher is there to change them."""
    directory = tmp_path_factory.mktemp("errors")
    database = {"Database": f"sqlite:///{directory / 'db.sqlite'}"}
    policy = {"Mode": "default-on", "Admin": True, "User": True}
    with controller(cluster, directory, policy, EmbeddedAPI=database) as running:
        user, token = new_user(running.root, "active")
        containers = {
            state: make_container(running, user, state)
            for state in ("Queued", "Locked", "Complete", "Cancelled", "gateway gone", "no gateway")
        }
        yield Scene(running, token, new_user(running.root, "stranger")[1], containers)
        # A refusal is everyday life: not one of them may have surprised the controller.
        assert "Traceback" not in running.log.read_text()


def make_container(controller: Controller, user: str, state: str) -> str:
    """Make a container that has got to ``state``."""
    root = controller.root
    uuid = str(submit(root, user, container_count_max=1)["container_uuid"])
    if state == "Queued":
        return uuid
    root.lock(uuid)
    if state == "Cancelled":
        root.update("containers", uuid, {"state": "Cancelled"})
    elif state != "Locked":
        gateway = "" if state == "no gateway" else f"127.0.0.1:{refused_port()}"
        root.update("containers", uuid, {"state": "Running", "gateway_address": gateway})
    if state == "Complete":
        root.update("containers", uuid, {"state": "Complete", "exit_code": 3})
    return uuid


class TestOverHttp:
    """The status of the wire's description, and one sentence in the JSON."""

    @pytest.mark.parametrize(
        ("state", "status", "words"),
        [
            ("Queued", 503, "not running yet (it is Queued)"),
            ("Locked", 503, "not running yet (it is Locked)"),
            ("Complete", 410, "has ended (Complete, exit 3"),
            ("Cancelled", 410, "has ended (Cancelled"),
            ("gateway gone", 503, "cannot be reached"),
            ("no gateway", 503, "without a gateway"),
        ],
    )
    def test_state(self, scene: Scene, state: str, status: int, words: str) -> None:
        """A container that cannot be entered now is named, with its state."""
        uuid = scene.containers[state]
        seen, sentence = scene.controller.status(uuid, scene.token)
        assert seen == status
        assert uuid in sentence and words in sentence

    @pytest.mark.parametrize("uuid", [NO_SUCH_CONTAINER, "nonsense", "zzzzz-tpzed-000000000000000", "%00", ".."])
    def test_no_such_container(self, scene: Scene, uuid: str) -> None:
        """An unknown or malformed UUID is 404."""
        assert scene.controller.status(uuid, scene.token)[0] == 404

    @pytest.mark.parametrize("token", ["", "nonsense", "v2/zzzzz-gj3su-000000000000000/nonsense"])
    def test_token(self, scene: Scene, token: str) -> None:
        """No token, or a wrong one, is 401; the sentence does not hold it."""
        status, sentence = scene.controller.status(scene.containers["Queued"], token)
        assert status == 401
        assert not token or token not in sentence

    def test_someone_elses(self, scene: Scene) -> None:
        """A container that the user may not read does not exist as far as that user may know."""
        assert scene.controller.status(scene.containers["Queued"], scene.strangers_token)[0] == 404

    @pytest.mark.parametrize(
        ("head", "status"),
        [
            (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n", 431),
            (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
            (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\r\n", 400),
            (b"\x00\x01\x02\x03 nonsense\r\n\r\n", 400),
            (b"POST /arvados/v1/containers/x/ssh HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", 400),
        ],
        ids=["long header", "long target", "ssh", "binary", "bad length"],
    )
    @pytest.mark.parametrize("server", ["controller", "gateway"])
    def test_not_a_request(
        self, request: pytest.FixtureRequest, scene: Scene, server: str, head: bytes, status: int
    ) -> None:
        """What is no request, or too long a one, is answered as one and the connection is closed."""
        connection = (
            scene.controller.connect() if server == "controller" else request.getfixturevalue("gateway_connection")()
        )
        with connection:
            answer = ask(connection, head)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert one_error(answer)

    @pytest.mark.parametrize("server", ["controller", "gateway"])
    def test_not_tls(self, cluster: EmbeddedCluster, scene: Scene, busybox: str, server: str) -> None:
        """A client that speaks no TLS is let go."""
        gateway = str(cluster.container(busybox)["gateway_address"])
        host, _, port = (scene.controller.address if server == "controller" else gateway).rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PROMPT) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP/1.1 2" not in read_all(plain)

    def test_gateway_without_proofs(self, gateway_connection: Callable[[], ssl.SSLSocket], busybox: str) -> None:
        """The gateway lets nobody in who cannot prove to be the cluster's controller."""
        head = (
            "POST /ssh HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: ssh\r\n"
            f"X-Arvados-Container-Gateway-Uuid: {busybox}\r\nX-Arvados-Authorization: {'0' * 64}\r\n"
            "Content-Length: 0\r\n\r\n"
        )
        with gateway_connection() as connection:
            connection.sendall(head.encode())
            # An answer like any other: the connection could be used again.
            assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 401 ")


@pytest.fixture
def gateway_connection(cluster: EmbeddedCluster, busybox: str) -> Callable[[], ssl.SSLSocket]:
    """Return a function that connects to a container's gateway."""
    host, _, port = str(cluster.container(busybox)["gateway_address"]).rpartition(":")

    def connect() -> ssl.SSLSocket:
        context = ssl._create_unverified_context()
        return context.wrap_socket(socket.create_connection((host, int(port)), timeout=PROMPT))

    return connect


def ask(connection: ssl.SSLSocket, head: bytes) -> bytes:
    """Send ``head``; return all that is answered until the other side closes."""
    try:
        connection.sendall(head)
    except OSError:
        pass  # closed before it had read all of it, which is its right
    return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    answer = b""
    try:
        while data := connection.recv(65536):
            answer += data
    except ConnectionError:
        pass  # a reset is an end too: it had not read all of what was sent
    return answer


def one_error(answer: bytes) -> str:
    """Return the only sentence of an HTTP answer's JSON."""
    errors = json.loads(answer.partition(b"\r\n\r\n")[2])["errors"]
    assert len(errors) == 1
    return str(errors[0])


@dataclass(frozen=True)
class Client:
    """A user's machine: a home and the settings in the environment."""

    home: Path
    settings: dict[str, str]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home)} | self.settings
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE
        )

    def shell(self, uuid: str) -> str:
        """Return the one line that arvados-client shell gives for a reason."""
        done = self.run(ARVADOS_CLIENT, "shell", uuid, "true")
        assert done.returncode == 255
        assert done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("arvados-client: ")
        return done.stderr

    def ssh(self, uuid: str) -> str:
        """Return the line that stock ssh shows before its own."""
        made = self.run(ARVADOS_CLIENT, "ssh-config", "--output-dir", str(self.home))
        assert made.returncode == 0, made.stderr
        done = self.run("ssh", "-F", str(self.home / "ssh_config"), uuid, "true")
        assert done.returncode == 255
        lines = done.stderr.splitlines()
        assert lines[0].startswith("arvados-client: ")
        assert all(line.startswith(("Connection closed", "kex_exchange_identification")) for line in lines[1:]), lines
        return lines[0]

    def complaint(self, way: str, uuid: str) -> str:
        sentence = self.shell(uuid) if way == "shell" else self.ssh(uuid)
        assert "Traceback" not in sentence
        return sentence


@pytest.fixture
def settings(scene: Scene) -> dict[str, str]:
    """The settings that would be right."""
    return {
        "ARVADOS_API_HOST": scene.controller.address,
        "ARVADOS_API_TOKEN": scene.token,
        "SSL_CERT_FILE": str(scene.controller.ca),
    }


@pytest.mark.parametrize("way", ["shell", "ssh"])
class TestClient:
    """The same through arvados-client shell, whose one line is all there is, and through stock ssh."""

    @pytest.mark.parametrize(
        ("state", "words"),
        [
            ("Queued", "is Queued"),
            ("Locked", "is Locked"),
            ("Complete", "has ended (Complete, exit 3"),
            ("Cancelled", "has ended (Cancelled"),
            ("gateway gone", "gateway"),
        ],
    )
    def test_state(
        self, scene: Scene, settings: dict[str, str], home: Path, way: str, state: str, words: str
    ) -> None:
        """A container that cannot be entered now is named, with its state."""
        uuid = scene.containers[state]
        sentence = Client(home, settings).complaint(way, uuid)
        assert uuid in sentence and words in sentence

    def test_unknown_uuid(self, settings: dict[str, str], home: Path, way: str) -> None:
        """A container that is not there is named."""
        assert NO_SUCH_CONTAINER in Client(home, settings).complaint(way, NO_SUCH_CONTAINER)

    def test_malformed_uuid(self, settings: dict[str, str], home: Path, way: str) -> None:
        """What is no UUID is said to be none, without asking anyone."""
        uuid = "zzzzz-dz642-short"
        sentence = Client(home, settings | {"ARVADOS_API_HOST": "192.0.2.1"}).complaint(way, uuid)
        assert uuid in sentence and "not a container UUID" in sentence

    @pytest.mark.parametrize("token", ["", "nonsense"])
    def test_token(self, scene: Scene, settings: dict[str, str], home: Path, way: str, token: str) -> None:
        """Without a valid token one is told to set one."""
        client = Client(home, settings | {"ARVADOS_API_TOKEN": token})
        sentence = client.complaint(way, scene.containers["Queued"])
        assert "ARVADOS_API_TOKEN" in sentence or "token" in sentence
        assert not token or token not in sentence

    def test_someone_elses(self, scene: Scene, settings: dict[str, str], home: Path, way: str) -> None:
        """A container that one may not read is not found."""
        uuid = scene.containers["Queued"]
        client = Client(home, settings | {"ARVADOS_API_TOKEN": scene.strangers_token})
        assert uuid in client.complaint(way, uuid)

    def test_controller_down(self, settings: dict[str, str], home: Path, way: str) -> None:
        """A controller that does not answer is named."""
        address = f"127.0.0.1:{refused_port()}"
        sentence = Client(home, settings | {"ARVADOS_API_HOST": address}).complaint(way, NO_SUCH_CONTAINER)
        assert address in sentence

    def test_tls_not_trusted(self, settings: dict[str, str], home: Path, way: str) -> None:
        """A certificate that no known CA has signed is refused, and the way out is named."""
        client = Client(home, {name: value for name, value in settings.items() if name != "SSL_CERT_FILE"})
        sentence = client.complaint(way, NO_SUCH_CONTAINER)
        assert "certificate" in sentence and "SSL_CERT_FILE" in sentence

    def test_no_settings(self, home: Path, way: str) -> None:
        """With no settings at all, the first one to set is named."""
        assert "ARVADOS_API_HOST is not set" in Client(home, {}).complaint(way, NO_SUCH_CONTAINER)

    def test_ssh_instead_of_https(self, settings: dict[str, str], home: Path, way: str) -> None:
        """A server that speaks first and no TLS is no controller."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
            process = subprocess.Popen(
                [sys.executable, "-c", BANNER], stdin=server.fileno(), stdout=subprocess.DEVNULL
            )
            try:
                sentence = Client(home, settings | {"ARVADOS_API_HOST": address}).complaint(way, NO_SUCH_CONTAINER)
            finally:
                process.kill()
                process.wait()
        assert address in sentence


BANNER = """
import socket
server = socket.socket(fileno=0)
while True:
    connection, _ = server.accept()
    connection.sendall(b"SSH-2.0-OpenSSH_9.2p1\\r\\n")
    connection.recv(1000)
    connection.close()
"""


class TestSshLayer:
    """What a library may do wrong within SSH, where stock ssh does not."""

    @pytest.fixture
    def transport(self, cluster: EmbeddedCluster, busybox: str) -> Iterator[paramiko.Transport]:
        """An SSH connection to a container by hand, logged in."""
        facts = cluster.up()
        front = Controller(facts["api_host"], cluster.directory.ca, "", cluster.directory.log)
        answer, connection = front.ask_for_session(busybox, cluster.directory.token_file("active").read_text().strip())
        assert answer.status == 101 and answer.trailing == b""
        with closing(connection), transport_over(connection) as transport:
            transport.start_client(timeout=DEADLINE)
            shown = transport.get_remote_server_key()
            assert answer.headers["x-arvados-ssh-host-key"].split()[1] == shown.get_base64()
            transport.auth_none("_")
            yield transport

    def test_second_program_on_a_channel(self, transport: paramiko.Transport) -> None:
        """A second program on one channel is refused, and the first one is not disturbed."""
        channel = transport.open_session(timeout=DEADLINE)
        channel.settimeout(DEADLINE)
        channel.exec_command("read line; echo $line")
        with pytest.raises(paramiko.SSHException):
            # paramiko drops a channel at a refused request, but the answer came: it was not a time-out.
            channel.exec_command("echo second")
        another = transport.open_session(timeout=DEADLINE)
        another.settimeout(DEADLINE)
        another.exec_command("echo still here")
        assert another.makefile().read() == b"still here\n"
        assert another.recv_exit_status() == 0

    def test_unknown_requests(self, transport: paramiko.Transport) -> None:
        """A request that nobody knows is refused, and the channel lives on."""
        channel = transport.open_session(timeout=DEADLINE)
        channel.settimeout(DEADLINE)
        channel.update_environment({"LC_X": "y"})
        channel.exec_command("echo $LC_X")
        assert channel.makefile().read() == b"y\n"

    def test_no_program_at_all(self, transport: paramiko.Transport) -> None:
        """A channel on which nothing is started ends with its client."""
        transport.open_session(timeout=DEADLINE).close()
        assert transport.is_active()


def test_password(cluster: EmbeddedCluster, busybox: str) -> None:
    """The user credential of the 101 is accepted as a password, and another one is not."""
    facts = cluster.up()
    front = Controller(facts["api_host"], cluster.directory.ca, "", cluster.directory.log)
    token = cluster.directory.token_file("active").read_text().strip()
    for right in (True, False):
        answer, connection = front.ask_for_session(busybox, token)
        credential = answer.headers["x-arvados-ssh-user-credential"] if right else "0" * 64
        with closing(connection), transport_over(connection) as transport:
            transport.start_client(timeout=DEADLINE)
            if right:
                assert transport.auth_password("_", credential) == []
            else:
                with pytest.raises(paramiko.AuthenticationException):
                    transport.auth_password("_", credential)


def test_gateway_gone(cluster: EmbeddedCluster, home: Path) -> None:
    """When a container's crunch-run has died, a session in it ends and a new one is told why."""
    uuid = cluster.run(*FOREVER)
    pid = cluster.crunch_run_pid(uuid)
    command = ["ssh", "-F", str(cluster.directory.ssh_config), uuid, "echo in; sleep 600"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as session:
        assert session.stdout and session.stdout.readline() == b"in\n"
        os.kill(pid, 9)
        assert session.wait(DEADLINE) == 255
    cluster.wait_for_state(uuid, "Cancelled")
    done = cluster.ssh(uuid, "true")
    assert done.returncode == 255 and f"container {uuid} has ended (Cancelled" in done.stderr
