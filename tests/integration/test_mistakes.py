"""The mistakes that people make most: each ends in one sentence that says what to do, by shell and by plain ssh."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.integration.account import ARVADOS_CLIENT, Account, new_account
from tests.integration.controllers import submit
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.timing import DEADLINE

NOBODYS = "zzzzz-dz642-000000000000000"


@dataclass
class Scene:
    """What a mistake is made in: a cluster, a container that runs on it, an account with the right settings."""

    cluster: EmbeddedCluster
    uuid: str
    account: Account
    tmp_path: Path
    stack: ExitStack

    def token(self, user: str) -> str:
        return self.cluster.directory.token_file(user).read_text().strip()


Mistake = tuple[str, dict[str, str]]
"""The host that is asked for, and the variables set beside the account's settings."""


def wrong_token(scene: Scene) -> Mistake:
    return scene.uuid, {"ARVADOS_API_TOKEN": "v2/zzzzz-gj3su-000000000000000/nonsense"}


def expired_token(scene: Scene) -> Mistake:
    user = scene.cluster.api().with_token(scene.token("active")).current_user()["uuid"]
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    made = scene.cluster.api().create("api_client_authorizations", {"owner_uuid": user, "expires_at": past})
    return scene.uuid, {"ARVADOS_API_TOKEN": f"v2/{made['uuid']}/{made['api_token']}"}


def unknown_host(scene: Scene) -> Mistake:
    return scene.uuid, {"ARVADOS_API_HOST": "zzzzz.arvados.invalid", "ARVADOS_API_TOKEN": "x"}


def host_of_something_else(scene: Scene) -> Mistake:
    """A web server with a certificate of its own on the same machine."""
    files = scene.cluster.directory
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    scene.stack.callback(server.server_close)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server_certificate, files.server_key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    scene.stack.callback(serving.join, DEADLINE)
    scene.stack.callback(server.shutdown)
    where = {"ARVADOS_API_HOST": f"127.0.0.1:{server.server_port}", "SSL_CERT_FILE": str(files.ca)}
    return scene.uuid, {**where, "ARVADOS_API_TOKEN": "x"}


def not_running(scene: Scene) -> Mistake:
    """A container that no node is big enough for."""
    user = scene.cluster.api().with_token(scene.token("active")).current_user()["uuid"]
    made = submit(scene.cluster.api(), user, scheduling_parameters={"partitions": ["nowhere"]}, priority=1)
    return str(made["container_uuid"]), {}


def typing_error(scene: Scene) -> Mistake:
    return scene.uuid[:-1], {}


def swapped_letters(scene: Scene) -> Mistake:
    return NOBODYS, {}


def other_cluster(scene: Scene) -> Mistake:
    return "xyzzy-dz642-abcdeabcdeabcde", {}


def firewall_that_refuses(scene: Scene) -> Mistake:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return scene.uuid, {"ARVADOS_API_HOST": f"127.0.0.1:{port}", "ARVADOS_API_TOKEN": "x"}


def firewall_that_drops(scene: Scene) -> Mistake:
    """A port that answers no SYN: its queue is full."""
    listener = scene.stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    for _ in range(3):
        filler = scene.stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
    return scene.uuid, {"ARVADOS_API_HOST": f"127.0.0.1:{listener.getsockname()[1]}", "ARVADOS_API_TOKEN": "x"}


def proxy_that_is_not_there(scene: Scene) -> Mistake:
    return scene.uuid, {"HTTPS_PROXY": "http://ann:secret@127.0.0.1:1"}


def untrusted_certificate(scene: Scene) -> Mistake:
    file = scene.account.home / ".config" / "arvados" / "settings.conf"
    kept = [line for line in file.read_text().splitlines() if "SSL_CERT_FILE" not in line]
    file.write_text("\n".join(kept))
    return scene.uuid, {}


def missing_settings(scene: Scene) -> Mistake:
    (scene.account.home / ".config" / "arvados" / "settings.conf").unlink()
    return scene.uuid, {}


def no_permission(scene: Scene) -> Mistake:
    return scene.uuid, {"ARVADOS_API_TOKEN": scene.token("spectator")}


def no_such_name(scene: Scene) -> Mistake:
    return "nothing-like-it.arv", {}


MISTAKES: list[tuple[Callable[[Scene], Mistake], str, str]] = [
    (wrong_token, "does not accept the token", "get a new one"),
    (expired_token, "the API token expired at ", "get a new one"),
    (unknown_host, "the host name zzzzz.arvados.invalid cannot be resolved", "check ARVADOS_API_HOST"),
    (host_of_something_else, "answered 501 ", "check that ARVADOS_API_HOST is a controller"),
    (not_running, "is not running yet (it is ", "try again when it is Running (--wait waits for it)"),
    (typing_error, "is not a container UUID", "copy it from the container's"),
    (swapped_letters, f"container {NOBODYS} was not found", "check the UUID and the token"),
    (other_cluster, "belongs to cluster xyzzy, but the token for ", "put the settings of xyzzy into "),
    (firewall_that_refuses, "connection refused", "check ARVADOS_API_HOST, and that the controller is up"),
    (firewall_that_drops, "did not answer within 20 s", "the network, such as firewalls"),
    (proxy_that_is_not_there, "cannot connect to the proxy 127.0.0.1:1 (HTTPS_PROXY)", "check HTTPS_PROXY"),
    (untrusted_certificate, "the TLS certificate of ", "set SSL_CERT_FILE to the file of its CA"),
    (missing_settings, "ARVADOS_API_HOST is not set", "set it and ARVADOS_API_TOKEN"),
    (no_permission, "was not found among what user ", "check the UUID and the token"),
    (no_such_name, "you have no container request called 'nothing-like-it'", "check the name, or give a UUID"),
]


@pytest.fixture
def scene(cluster: EmbeddedCluster, busybox: str, tmp_path: Path) -> Iterator[Scene]:
    """A cluster, a container, and an account where everything is right."""
    with new_account() as account, ExitStack() as stack:
        account.settle(cluster.directory)
        assert account.client("ssh-config", "--install").returncode == 0
        yield Scene(cluster, busybox, account, tmp_path, stack)


@pytest.mark.parametrize(("make", "what", "step"), MISTAKES, ids=[row[0].__name__ for row in MISTAKES])
def test_mistake(scene: Scene, make: Callable[[Scene], Mistake], what: str, step: str) -> None:
    """shell says one sentence, plain ssh the same before its own; it names the thing and the next step."""
    host, variables = make(scene)
    said = []
    commands = ([ARVADOS_CLIENT, "shell", host, "true"], scene.account.ssh_command(host, "true"))
    environment = scene.account.environment | variables
    with ExitStack() as running:
        started = [
            running.enter_context(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
                )
            )
            for command in commands
        ]
        for process in started:
            out, err = process.communicate(timeout=DEADLINE)
            assert (process.returncode, out) == (255, b"")
            said.append(err.decode().splitlines())
    assert len(said[0]) == 1
    for lines in said:
        assert lines[0].startswith("arvados-client: ") and what in lines[0] and step in lines[0]
        assert "Traceback" not in "".join(lines) and "secret" not in lines[0]


def test_no_engine(tmp_path: Path) -> None:
    """Without a Docker engine a container is Cancelled, and who wants to enter it is told the reason."""
    cluster = EmbeddedCluster(tmp_path / "cluster", {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    cluster.up()
    try:
        api = cluster.api()
        token = cluster.directory.token_file("active").read_text().strip()
        made = submit(api, api.with_token(token).current_user()["uuid"], container_count_max=1)
        cluster.wait_for_state(made["container_uuid"], "Cancelled")
        with new_account() as account:
            account.settle(cluster.directory)
            done = account.client("shell", made["container_uuid"], "true")
    finally:
        cluster.arv_ssh("down")  # it complains of the engine too
    said = done.stderr.decode()
    assert (done.returncode, said.count("\n")) == (255, 1)
    assert f"container {made['container_uuid']} has ended (Cancelled, " in said
    assert "): the Docker engine" in said and said.endswith("; submit it again to enter it\n")


@pytest.mark.parametrize(("version", "warned"), [("7.4", True), ("8.3p1", True), ("8.4p1", False), ("10.0", False)])
def test_old_openssh(scene: Scene, version: str, warned: bool) -> None:
    """An OpenSSH that does not know %h in UserKnownHostsFile is told so, by its own identification."""
    shown = scene.account.run(*scene.account.ssh_command("-G", scene.uuid)).stdout.decode()
    proxy = next(line for line in shown.splitlines() if line.startswith("proxycommand ")).split(" ", 1)[1]
    line = proxy.replace("%r", "_").replace("%h", scene.uuid)
    done = scene.account.run("sh", "-c", line, input=f"SSH-2.0-OpenSSH_{version} Debian-1\r\n".encode())
    assert done.stdout.startswith(b"SSH-2.0-")
    number = version.partition("p")[0]
    said = f"arvados-client: this ssh is OpenSSH {number}, which is too old to find the host key file; upgrade to "
    assert done.stderr.decode().startswith(f"{said}8.4") == warned
