"""Stock Arvados parts on either side of ours, as doubles: its client, its gateway, its controller. ssh is real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arv_ssh.config import cluster_config
from arv_ssh.trust import credentials
from tests.integration.conftest import FOREVER
from tests.integration.controllers import Controller, started
from tests.integration.embedded_cluster import EmbeddedCluster, docker_container
from tests.stock.api import stock_api
from tests.stock.gateway import StockGateway, stock_gateway
from tests.timing import DEADLINE

ROOT = Path(__file__).parents[2]
ACTIVE = "zzzzz-tpzed-xurymjxw79nv3jz"


def run(command: list[str], environment: dict[str, str], home: Path) -> subprocess.CompletedProcess[str]:
    base = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE, stdin=subprocess.DEVNULL, env=base | environment
    )


@pytest.fixture
def client_settings(cluster: EmbeddedCluster) -> dict[str, str]:
    return {
        "ARVADOS_API_HOST": cluster_config.load(cluster.directory.config).controller_url.removeprefix("https://"),
        "ARVADOS_API_TOKEN": cluster.directory.token_file("active").read_text().strip(),
        "SSL_CERT_FILE": str(cluster.directory.ca),
    }


def stock_client(version: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.stock.client", version, *arguments]


@pytest.mark.parametrize("version", ["older", "newer"])
def test_stock_client(
    client_settings: dict[str, str], busybox: str, home: Path, version: str
) -> None:
    """Stock ``arvados-client shell`` runs a command in a container as root, as it does by default, and ends with it."""
    options = ("-o", f"UserKnownHostsFile={home}/known_hosts")
    done = run(stock_client(version, "shell", busybox, *options, "id -u; hostname; exit 7"), client_settings, home)
    assert (done.returncode, done.stdout) == (7, f"0\n{busybox}\n"), done.stderr


@pytest.mark.parametrize("version", ["older", "newer"])
def test_stock_client_of_another_local_user(
    client_settings: dict[str, str], busybox: str, home: Path, version: str
) -> None:
    """The local user's name, which ssh sends, does not count: the session is root's, as the client asked for."""
    options = ("-o", f"UserKnownHostsFile={home}/known_hosts")
    command = stock_client(version, "shell", busybox, *options, "id -u; exit 7")
    done = run(command, client_settings | {"STOCK_LOCAL_USER": "alice"}, home)
    assert (done.returncode, done.stdout) == (7, "0\n"), done.stderr


def test_stock_client_with_a_login_name(client_settings: dict[str, str], busybox: str, home: Path) -> None:
    """The login name before the UUID is who runs the command; a stream goes through whole."""
    options = ("-o", f"UserKnownHostsFile={home}/known_hosts")
    command = stock_client("newer", "shell", f"crunch@{busybox}", *options, "id -un; seq 1 200000")
    done = run(command, client_settings, home)
    assert done.stdout == "crunch\n" + "".join(f"{number}\n" for number in range(1, 200001)), done.stderr


def test_stock_client_with_a_request(
    cluster: EmbeddedCluster, client_settings: dict[str, str], busybox: str, home: Path
) -> None:
    """A container request is resolved by a list as the stock client sends it."""
    (request,) = cluster.api().list("container_requests", filters=[["container_uuid", "=", busybox]])["items"]
    done = run(stock_client("older", "connect-ssh", "-probe-only", request["uuid"]), client_settings, home)
    assert (done.returncode, done.stdout) == (0, f"{busybox}\n"), done.stderr


@pytest.mark.parametrize("version", ["older", "newer"])
def test_stock_client_reads_the_error(client_settings: dict[str, str], home: Path, version: str) -> None:
    """A refusal is our sentence in the stock client's words."""
    uuid = "zzzzz-dz642-000000000000000"
    done = run(stock_client(version, "shell", uuid), client_settings, home)
    assert done.returncode == 1
    told = f"error setting up tunnel: server did not provide a tunnel: container {uuid} was not found"
    assert told in done.stderr and done.stderr.endswith("(HTTP 404)\n")


@contextmanager
def beside_a_stock_gateway(
    cluster: EmbeddedCluster, directory: Path, uuid: str
) -> Iterator[tuple[Controller, StockGateway, dict[str, str]]]:
    """Give our controller, which finds a stock gateway on the container's record, and a user's settings."""
    ours = cluster_config.load(cluster.directory.config)
    pair = cluster.directory.server_certificate, cluster.directory.server_key
    container = docker_container(uuid)
    with (
        stock_api(*pair) as api,
        stock_gateway(*pair, ours.system_root_token, uuid, docker_container=container) as gateway,
        started(cluster, directory, ["--config", str(cluster.directory.config), "--api", api.url]) as controller,
    ):
        api.add_user(ACTIVE, "secret")
        api.add_user("zzzzz-tpzed-000000000000000", ours.system_root_token, is_admin=True)
        api.add_container(uuid, gateway.address, {ACTIVE})
        api.add_request("zzzzz-xvhdp-000000000000000", uuid, ACTIVE)
        settings = {"ARVADOS_API_HOST": controller.address, "ARVADOS_API_TOKEN": "secret"}
        yield controller, gateway, settings | {"SSL_CERT_FILE": str(cluster.directory.ca)}


def test_stock_gateway(cluster: EmbeddedCluster, busybox: str, tmp_path: Path, home: Path) -> None:
    """We lead to a stock gateway: no key is vouched for, which ssh-proxy says, and ssh remembers one when told to."""
    with beside_a_stock_gateway(cluster, tmp_path, busybox) as (controller, gateway, settings):
        answer, connection = controller.ask_for_session(busybox, "secret")
        connection.close()
        assert answer.status == 101
        assert not {"x-arvados-ssh-host-key", "x-arvados-ssh-user-credential"} & answer.headers.keys()
        client = str(Path(sys.executable).with_name("arvados-client"))
        made = run([client, "ssh-config", "--output-dir", str(home), "--no-control-master"], settings, home)
        assert made.returncode == 0, made.stderr
        ssh = ["ssh", "-F", str(home / "ssh_config")]
        refused = run([*ssh, busybox, "hostname"], settings, home)
        assert refused.returncode == 255 and refused.stdout == ""
        assert "accept-new" in refused.stderr, refused.stderr
        accepted = run([*ssh, "-o", "StrictHostKeyChecking=accept-new", busybox, "hostname"], settings, home)
        assert (accepted.returncode, accepted.stdout) == (0, f"{busybox}\n"), accepted.stderr
        as_other = run([*ssh, "-o", "StrictHostKeyChecking=accept-new", f"crunch@{busybox}", "id -un"], settings, home)
        assert as_other.stdout == "crunch\n", as_other.stderr
    assert b"X-Arvados-Session: " in gateway.heads[0]


def test_stock_client_and_stock_gateway(cluster: EmbeddedCluster, busybox: str, tmp_path: Path, home: Path) -> None:
    """With stock parts on both sides our controller is as good as the stock one."""
    with beside_a_stock_gateway(cluster, tmp_path, busybox) as (_, _, settings):
        options = ("-o", f"UserKnownHostsFile={home}/known_hosts")
        done = run(stock_client("older", "shell", busybox, *options, "hostname"), settings, home)
        assert (done.returncode, done.stdout) == (0, f"{busybox}\n"), done.stderr


def test_stock_gateway_of_another_container(
    cluster: EmbeddedCluster, busybox: str, debian: str, tmp_path: Path
) -> None:
    """A stock gateway that refuses us, in plain text, is a 502 with the next step's owner named."""
    with beside_a_stock_gateway(cluster, tmp_path, busybox) as (controller, gateway, _):
        gateway._container["uuid"] = debian
        status, sentence = controller.status(busybox, "secret")
        assert status == 502 and f"the gateway of container {busybox} refused the session" in sentence


@pytest.fixture
def own_gateway(request: pytest.FixtureRequest, cluster: EmbeddedCluster) -> Iterator[tuple[str, str]]:
    """Our gateway alone, with the options of the parameter, for a container of the cluster; its UUID and address."""
    uuid = cluster.run(*FOREVER)
    secret = credentials.container_secret(cluster_config.load(cluster.directory.config).system_root_token, uuid)
    program = Path(sys.executable).with_name("crunch-sshd")
    command = [
        program, "--container-uuid", uuid, "--docker-container", docker_container(uuid),
        "--gateway-auth-secret", "env:SECRET", *request.param,
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | {"SECRET": secret}
    ) as process:
        try:
            assert process.stdout is not None
            yield uuid, process.stdout.readline().strip()
        finally:
            process.terminate()


def by_stock_controller(
    cluster: EmbeddedCluster, gateway: tuple[str, str], username: str, command: str, home: Path, local_user: str = ""
) -> subprocess.CompletedProcess[str]:
    uuid, address = gateway
    proxy = f"'{sys.executable}' -m tests.stock.controller {address} {uuid} '{username}'"
    ssh = ["ssh", "-o", f"ProxyCommand={proxy}", "-o", "StrictHostKeyChecking=accept-new"]
    ssh += ["-o", f"UserKnownHostsFile={home}/known_hosts", f"{local_user or username or '_'}@{uuid}", command]
    return run(ssh, {"ROOT_TOKEN": cluster_config.load(cluster.directory.config).system_root_token}, home)


@pytest.mark.parametrize("own_gateway", [("--accept-unsigned-sessions",)], indirect=True)
def test_stock_controller(cluster: EmbeddedCluster, own_gateway: tuple[str, str], home: Path) -> None:
    """A stock controller's sessions come in where unsigned ones are accepted; the form's login name counts."""
    done = by_stock_controller(cluster, own_gateway, "", "hostname; exit 3", home)
    assert (done.returncode, done.stdout) == (3, f"{own_gateway[0]}\n"), done.stderr
    done = by_stock_controller(cluster, own_gateway, "crunch", "id -un", home)
    assert (done.returncode, done.stdout) == (0, "crunch\n"), done.stderr
    done = by_stock_controller(cluster, own_gateway, "crunch", "id -un", home, local_user="alice")
    assert (done.returncode, done.stdout) == (0, "crunch\n"), done.stderr


@pytest.mark.parametrize("own_gateway", [()], indirect=True)
def test_stock_controller_without_the_option(
    cluster: EmbeddedCluster, own_gateway: tuple[str, str], home: Path
) -> None:
    """Without that option an unsigned session is refused, and the gateway says what it demands."""
    done = by_stock_controller(cluster, own_gateway, "", "hostname", home)
    assert done.returncode == 255 and done.stdout == ""
    assert "401" in done.stderr and "X-Arvados-Session" in done.stderr
