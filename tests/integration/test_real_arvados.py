"""A controller beside a real Arvados: its config file as it stands, its API, and its ways of saying no.

The API is a double (tests/stock/api.py); the container, its gateway, ssh and the controller are real.
"""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.config import cluster_config
from arv_ssh.errors import NotFound
from tests.integration.conftest import FOREVER
from tests.integration.controllers import Controller, controller, started
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.stock.api import Failure, StockApi, stock_api
from tests.timing import DEADLINE

STOCK_CONFIG = Path(__file__).parents[1] / "stock" / "config.yml"
ACTIVE = "zzzzz-tpzed-xurymjxw79nv3jz"
OTHER = "zzzzz-tpzed-l1s2piq4t4mps8r"
REMOTE = "ardev-tpzed-fake0remote0user"
ROOT = "zzzzz-tpzed-000000000000000"
NOWHERE = "zzzzz-dz642-000000000000000"
TOKEN_UUID = "zzzzz-gj3su-077z32aux8dg2s1"


@dataclass
class Site:
    """A controller, the API it asks, a container, and the secrets of tokens."""

    controller: Controller
    api: StockApi
    uuid: str
    secret: str
    remote_token: str

    @property
    def token(self) -> str:
        return f"v2/{TOKEN_UUID}/{self.secret}"

    @property
    def log(self) -> str:
        return self.controller.log.read_text()


@pytest.fixture(scope="module")
def running(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The controller on a stock config.yml as a site has it; what is its own comes by the command line."""
    directory = tmp_path_factory.mktemp("site")
    ours = cluster_config.load(cluster.directory.config)
    file = directory / "config.yml"
    filled = {
        "@ROOT_TOKEN@": ours.system_root_token,
        "@CERTIFICATE@": str(ours.tls_certificate),
        "@KEY@": str(ours.tls_key),
    }
    text = STOCK_CONFIG.read_text()
    for name, value in filled.items():
        text = text.replace(name, value)
    file.write_text(text)
    uuid = cluster.run(*FOREVER)
    certificate, key = cluster.directory.server_certificate, cluster.directory.server_key
    with (
        stock_api(certificate, key) as api,
        started(cluster, directory, ["--config", str(file), "--api", api.url]) as ours_running,
    ):
        secret, remote = secrets.token_hex(20), f"v2/ardev-gj3su-000000000000000/{secrets.token_hex(20)}"
        api.add_user(ACTIVE, secret)
        api.add_user(OTHER, "other's-secret")
        api.add_user(REMOTE, remote)
        api.add_user(ROOT, ours.system_root_token, is_admin=True)
        api.add_container(uuid, cluster.container(uuid)["gateway_address"], {ACTIVE, OTHER})
        yield Site(ours_running, api, uuid, secret, remote)


@pytest.fixture
def site(running: Site) -> Site:
    """The site with a container that nobody has entered and that serves five requests, all of one user."""
    running.api.failures.clear()
    running.api.seen.clear()
    running.api.containers[running.uuid]["interactive_session_started"] = False
    running.api.requests.clear()
    for number in range(5):
        running.api.add_request(f"zzzzz-xvhdp-{number:015}", running.uuid, ACTIVE)
    return running


def ssh_by(site: Site, cluster: EmbeddedCluster, directory: Path, token: str) -> list[str]:
    """Return stock ssh's command to the site's container, with settings of a user of the site."""
    settings = directory / "settings.conf"
    settings.write_text(f"ARVADOS_API_HOST={site.controller.address}\nARVADOS_API_TOKEN={token}\n")
    client = Path(cluster.command("up")[0]).with_name("arvados-client")
    subprocess.run(
        [client, "ssh-config", "--settings", settings, "--output-dir", directory, "--no-control-master"],
        check=True, timeout=DEADLINE, env={"SSL_CERT_FILE": str(cluster.directory.ca), "HOME": str(directory)},
    )  # fmt: skip
    return ["ssh", "-F", str(directory / "ssh_config"), site.uuid]


def test_session(site: Site, cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """Stock ssh has its session; the API was asked as the user and as root, and told of it by the mark alone."""
    command = ssh_by(site, cluster, tmp_path, site.token)
    environment = {"SSL_CERT_FILE": str(cluster.directory.ca), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [*command, "hostname; exit 7"], capture_output=True, text=True, timeout=DEADLINE, stdin=subprocess.DEVNULL,
        env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (7, f"{site.uuid}\n"), done.stderr
    api, path = site.api, f"/arvados/v1/containers/{site.uuid}"
    (mark,) = api.asked("PATCH", path)
    assert mark.json == {"container": {"interactive_session_started": True}}
    assert site.secret not in mark.headers["authorization"]
    assert site.secret in api.asked("GET", path)[0].headers["authorization"]
    assert len(api.asked("GET", "/arvados/v1/container_requests")) == 4  # five requests in pages of two, and the end
    request_ids = {seen.headers["x-request-id"] for seen in api.seen}
    assert len(request_ids) == 1 and request_ids.pop() in site.log


@pytest.mark.parametrize("form", ["v2/{uuid}/{secret}", "{secret}"])
def test_both_forms_of_a_token(site: Site, form: str) -> None:
    """A token is good as v2/uuid/secret and as the bare secret, and is passed on as it came."""
    token = form.format(uuid=TOKEN_UUID, secret=site.secret)
    assert site.controller.status(site.uuid, token) == (101, "")
    assert site.api.asked("GET", "/arvados/v1/users/current")[0].headers["authorization"] == f"Bearer {token}"


def test_another_clusters_token(site: Site) -> None:
    """A token of another cluster reaches the API as it is, which knows what it is worth."""
    site.api.readable.add((REMOTE, site.uuid))
    for request in site.api.requests.values():
        request["modified_by_user_uuid"] = REMOTE
    assert site.controller.status(site.uuid, site.remote_token) == (101, "")


def test_requests_of_somebody_else_on_the_last_page(site: Site) -> None:
    """All requests are looked at, not the first page of them: one of another user's shuts everybody out."""
    site.api.requests["zzzzz-xvhdp-000000000000004"]["modified_by_user_uuid"] = OTHER
    status, sentence = site.controller.status(site.uuid, site.token)
    assert status == 403 and "other users" in sentence


ODD_ANSWERS: list[tuple[str, str, Any]] = [
    ("users", "is_active", "true"), ("users", "is_active", None), ("users", "uuid", [ACTIVE]),
    ("containers", "runtime_constraints", None), ("containers", "runtime_constraints", {"shell_access": "false"}),
    ("containers", "state", ["Running"]), ("containers", "gateway_address", 1), ("containers", "uuid", None),
    ("requests", "modified_by_user_uuid", {"uuid": ACTIVE}), ("requests", "modified_by_user_uuid", None),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "odd"), ODD_ANSWERS, ids=str)
def test_an_answer_of_another_form(site: Site, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, odd: Any) -> None:
    """What the API leaves out, or says in another form, opens no session, and the user reads a sentence."""
    key = {"users": ACTIVE, "containers": site.uuid, "requests": "zzzzz-xvhdp-000000000000004"}[kind]
    monkeypatch.setitem(getattr(site.api, kind)[key], name, odd)
    status, sentence = site.controller.status(site.uuid, site.token)
    assert status in (403, 404, 502, 503) and sentence and "server error" not in sentence


def test_wrong_token(site: Site) -> None:
    """The API's 401 is the user's, with its text and without the servers that it came through."""
    status, sentence = site.controller.status(site.uuid, f"v2/{TOKEN_UUID}/wrong")
    assert status == 401
    assert sentence.endswith("does not accept the API token: Not logged in (req-1k2v3a4d5o6s7x8y9z0a)")


def test_no_such_container(site: Site) -> None:
    """The API's 404 names the container, which its own text does not."""
    status, sentence = site.controller.status(NOWHERE, site.token)
    assert status == 404 and NOWHERE in sentence and "railsapi" not in sentence


@pytest.mark.parametrize(
    ("path", "status", "text", "answer"),
    [
        ("/arvados/v1/users/current", 403, "this token is scoped", (403, "this token is scoped")),
        ("/arvados/v1/users/current", 422, "no", (422, "no")),
        ("/arvados/v1/users/current", 500, "#<NoMethodError>", (502, "failed (500): #<NoMethodError>")),
        ("/arvados/v1/containers/", 403, "forbidden", (403, "forbidden")),
        ("/arvados/v1/container_requests", 500, "PG::Error", (502, "did not say whose container")),
        ("/arvados/v1/container_requests", 401, "Not logged in", (502, "SystemRootToken")),
    ],
)
def test_refusals(site: Site, path: str, status: int, text: str, answer: tuple[int, str]) -> None:
    """What the API says no with is said on; what it fails with is 502; neither is asked for twice."""
    site.api.failures.append(Failure("GET", path, status, text))
    found, sentence = site.controller.status(site.uuid, site.token)
    assert found == answer[0] and answer[1] in sentence
    assert not site.api.asked("PATCH", f"/arvados/v1/containers/{site.uuid}")


def test_busy_api(site: Site) -> None:
    """Reads and the mark survive an API that cannot serve yet; one that stays so is a 503 with its sentence."""
    for method, path in (("GET", "/arvados/v1/users/current"), ("GET", "/arvados/v1/container_requests"),
                         ("PATCH", "/arvados/v1/containers/")):  # fmt: skip
        site.api.failures.append(Failure(method, path, 503, "busy", times=2))
    assert site.controller.status(site.uuid, site.token) == (101, "")
    site.api.failures.append(Failure("GET", "/arvados/v1/users/current", 503, "too many requests", times=3))
    assert site.controller.status(site.uuid, site.token) == (503, "too many requests")


def test_mark_that_cannot_be_set(site: Site) -> None:
    """A session whose mark the API refuses does not begin."""
    site.api.failures.append(Failure("PATCH", "/arvados/v1/containers/", 422, "frozen"))
    status, sentence = site.controller.status(site.uuid, site.token)
    assert status == 502 and "could not be marked as entered: frozen" in sentence


def test_nothing_else_is_served(site: Site) -> None:
    """Without PassThrough the API itself is not reachable through the controller."""
    with pytest.raises(Exception, match="no such path: /arvados/v1/users/current"):
        site.controller.root.current_user()
    assert site.api.seen == []


def test_pass_through(site: Site, cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """With PassThrough everything but our own endpoints is the API's; the health check and sessions stay ours."""
    section: dict[str, Any] = {"API": site.api.url, "EmbeddedAPI": None, "PassThrough": True}
    with controller(cluster, tmp_path, {"User": True}, **section) as passing:
        as_user = passing.root.with_token(site.token, "req-mine")
        assert as_user.current_user()["uuid"] == ACTIVE
        (asked,) = site.api.asked("GET", "/arvados/v1/users/current")
        assert asked.headers["x-request-id"] == "req-mine" and asked.headers["host"] in site.api.url
        found = as_user.list("container_requests", filters=[["container_uuid", "=", site.uuid]])
        assert found["items_available"] == 5
        with pytest.raises(NotFound, match=r"Path not found"):
            as_user.get("containers", NOWHERE)
        assert passing.root.update("containers", site.uuid, {"priority": 7})["priority"] == 7
        assert passing.status(site.uuid, site.token) == (101, "")
        site.api.seen.clear()
        status, sentence = passing.status("zzzzz-dz642-000000000000000", f"v2/{TOKEN_UUID}/wrong")
        assert status == 401 and "does not accept the API token" in sentence
        assert [seen.path for seen in site.api.seen] == ["/arvados/v1/users/current"]


@pytest.mark.parametrize("passing", [False, True], ids=["own paths", "all paths"])
def test_logs(site: Site, cluster: EmbeddedCluster, tmp_path: Path, passing: bool) -> None:
    """A log is the gateway's while the container runs; what comes before, beside and after it is the API's."""
    section: dict[str, Any] = {"API": site.api.url, "EmbeddedAPI": None, "PassThrough": passing}
    request = next(iter(site.api.requests))
    base = f"/arvados/v1/container_requests/{request}/log"

    def ask(path: str) -> str:
        site.api.seen.clear()
        token = f"Authorization: Bearer {site.token}"
        command = ["curl", "-sS", "--cacert", str(cluster.directory.ca), "-H", token, f"https://{asked.address}{path}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with controller(cluster, tmp_path, {"User": True}, **section) as asked:
        live = f"{base}/{site.uuid}/crunch-run.txt"
        assert ask(live).startswith('{"time": ')
        assert site.api.asked("GET", live) == []
        for path in (base, f"{base}/{NOWHERE}/crunch-run.txt"):
            assert json.loads(ask(path)) == {"saved log": path}
        site.api.containers[site.uuid]["state"] = "Complete"
        try:
            assert json.loads(ask(live)) == {"saved log": live}
        finally:
            site.api.containers[site.uuid]["state"] = "Running"
        (passed,) = site.api.asked("GET", live)
        assert passed.headers["authorization"] == f"Bearer {site.token}"


def test_pass_through_needs_an_api(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """PassThrough on a cluster with an embedded API is one sentence at the start."""
    with (
        pytest.raises(AssertionError, match="PassThrough is true, but there is no API to forward to"),
        controller(cluster, tmp_path, {"User": True}, PassThrough=True),
    ):
        pass


def test_no_token_in_any_log(site: Site, cluster: EmbeddedCluster) -> None:
    """After all of this no log holds a token, or the secret part of one, nor the root token."""
    site.controller.status(site.uuid, site.token)
    root_token = cluster_config.load(cluster.directory.config).system_root_token
    logs = [site.controller.log, *cluster.directory.log.rglob("*")]
    for path in logs:
        text = path.read_text() if path.is_file() else ""
        for secret in (site.secret, site.remote_token, site.remote_token.split("/")[2], root_token):
            assert secret not in text, path
    assert site.uuid in site.log
