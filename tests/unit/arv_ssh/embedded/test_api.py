"""The embedded API as a whole: shapes of answers, and bad input, which is never a 500."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from arv_ssh.config.cluster_config import parse
from arv_ssh.embedded.api import EmbeddedApi
from arv_ssh.errors import ConfigError
from tests.unit.arv_ssh.embedded.cluster import ACTIVE, ROOT_TOKEN, WORK, Cluster

REQUESTS = "/arvados/v1/container_requests"
CONTAINERS = "/arvados/v1/containers"


def test_record_shape(cluster: Cluster) -> None:
    """A container has the attributes that Arvados gives it, and none that are the database's own."""
    container = cluster.active.get("containers", cluster.container("Queued"))
    assert container["kind"] == "arvados#container" and container["href"] == f"/containers/{container['uuid']}"
    assert container["created_at"].endswith("000Z")
    arvados = (
        "etag owner_uuid modified_at modified_by_user_uuid auth_uuid command container_image cost cwd environment "
        "exit_code finished_at gateway_address interactive_session_started lock_count locked_by_uuid log mounts output "
        "output_path priority progress runtime_constraints runtime_status runtime_user_uuid scheduling_parameters "
        "started_at state"
    )
    assert set(arvados.split()) <= container.keys()
    assert "reuse_key" not in container


def test_error_shape(cluster: Cluster) -> None:
    """An error is Arvados' {"errors": [sentence], "error_token": …}, with the request's id when it had one."""
    status, answer = cluster.call("GET", f"{CONTAINERS}/nonsense", headers={"x-request-id": "req-1"})
    assert status == 404
    assert answer.keys() == {"errors", "error_token", "request_id"}
    assert answer["errors"][0].startswith("container 'nonsense' (which is not a UUID) was not found")
    assert answer["error_token"].split("+")[0].isdigit() and answer["request_id"] == "req-1"


def test_select_of_one_record(cluster: Cluster) -> None:
    """Select cuts a record down to what was asked for, and its kind."""
    request = cluster.submit()
    assert cluster.active.get("container_requests", request["uuid"], select=["uuid", "state"]) == {
        "kind": "arvados#containerRequest", "uuid": request["uuid"], "state": "Committed",
    }  # fmt: skip


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("form", [True, False])
def test_bodies_as_arvados_clients_send_them(cluster: Cluster, wrapped: bool, form: bool) -> None:
    """Attributes come as JSON or as a form, under the record's name or beside the parameters."""
    attributes: dict[str, Any] = WORK | {"name": "123"}
    if form:
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in attributes.items()}
        body: Any = urlencode({"container_request": json.dumps(attributes)} if wrapped else texts).encode()
    else:
        body = {"container_request": attributes} if wrapped else attributes
    status, answer = cluster.call("POST", REQUESTS, body=body)
    assert (status, answer["name"], answer["command"]) == (200, "123", WORK["command"])


@pytest.mark.parametrize("headers", [{}, {"x-http-method-override": "GET"}])
def test_get_by_post(cluster: Cluster, headers: dict[str, str]) -> None:
    """A list too long for a URL is asked for by POST with _method=GET, or with the header of that meaning."""
    form = urlencode({"limit": "1"} | ({} if headers else {"_method": "GET"})).encode()
    status, answer = cluster.call("POST", "/arvados/v1/users", body=form, headers=headers)
    assert status == 200 and len(answer["items"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/arvados/v1/", 404),
        ("GET", "/arvados/v1/pizzas", 404),
        ("GET", "/elsewhere", 404),
        ("GET", f"{CONTAINERS}//lock", 404),
        ("GET", f"{CONTAINERS}/zzzzz-dz642-abcdeabcdeabcde", 404),
        ("GET", f"{CONTAINERS}/zzzzz-dz642-abcdeabcdeabcde/", 404),
        ("GET", f"{CONTAINERS}/zzzzz-dz642-abcdeabcdeabcde/pizza", 404),
        ("GET", f"{CONTAINERS}/zzzzz-dz642-abcdeabcdeabcde/auth/more", 404),
        ("GET", f"{CONTAINERS}/\0'\"", 404),
        ("POST", f"{CONTAINERS}/zzzzz-dz642-abcdeabcdeabcde/lock", 404),
        ("GET", f"{CONTAINERS}/zzzzz-dz642-abcdeabcdeabcde/lock", 405),
        ("PUT", CONTAINERS, 405),
        ("POST", "/arvados/v1/users/current", 405),
        ("BREW", CONTAINERS, 400),
        ("POST", CONTAINERS, 403),
    ],
)
def test_wrong_paths_and_methods(cluster: Cluster, method: str, path: str, status: int) -> None:
    """A path or method that the API does not have is refused with a sentence."""
    found, answer = cluster.call(method, path)
    assert found == status and len(answer["errors"][0]) > 20


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[]", b"nul", b'"text"', b"\xff\xfe", b'{"container_request": 3}', b'{"container_request": "{"}',
        b'{"command": ["\\ud800"]}', b'{"name": "\\u0000"}', b'{"priority": NaN}', b'{"priority": 1e999}',
        b"[" * 100_000, b'{"a":' * 100_000, b'{"priority": 1' + b"0" * 5000 + b"}",
        b'{"pizza": 1}', b'{"priority": "high"}', b'{"priority": true}', b'{"priority": 99999999999999999999}',
        b'{"command": "sleep"}', b'{"environment": []}', b'{"use_existing": "yes"}', b'{"name": 3}',
        b'{"expires_at": "soon"}', b'{"expires_at": "0001-01-01T00:00:00+23:00"}', b'{"uuid": "x"}', b'{"uuid": 1}',
        b'{"owner_uuid": "zzzzz-tpzed-aaaaaaaaaaaaaaa"}', b'{"modified_by_user_uuid": "x"}', b'{"state": "Final"}',
        b'{"state": "Paused"}', b'{"state": 1}', b'{"container_uuid": "zzzzz-dz642-abcdeabcdeabcde"}',
        b'{"created_at": "2030-01-01T00:00:00Z"}', b'{"log_uuid": "x"}',
    ],
)  # fmt: skip
def test_bad_bodies(cluster: Cluster, body: bytes) -> None:
    """A body that is not JSON, not a record, or of wrong types is a 4xx that says what is wrong."""
    status, answer = cluster.call("POST", REQUESTS, body=body, headers={"content-type": "application/json"})
    assert status in (400, 422), answer
    assert len(answer["errors"][0]) > 15


def test_garbage_forms(cluster: Cluster) -> None:
    """A form that cannot be read is a 400."""
    for body in (b"a=%ff", b"&".join(b"a=1" for _ in range(5000)), b"a=%00"):
        assert cluster.call("POST", REQUESTS, body=body)[0] == 400


def test_record_can_be_sent_back(cluster: Cluster) -> None:
    """A client may send the whole record back with one attribute changed."""
    request = cluster.submit()
    assert cluster.active.update("container_requests", request["uuid"], request | {"name": "new"})["name"] == "new"


def test_fixture_uuid(cluster: Cluster) -> None:
    """An administrator may choose a UUID, once."""
    uuid = "zzzzz-xvhdp-abcdeabcdeabcde"
    assert cluster.submit(cluster.admin, uuid=uuid)["uuid"] == uuid
    status, answer = cluster.call("POST", REQUESTS, body=WORK | {"uuid": uuid})
    assert status == 422 and answer["errors"] == [f"uuid {uuid} is already taken"]
    status, answer = cluster.call("POST", REQUESTS, body=WORK | {"uuid": "zzzzz-tpzed-abcdeabcdeabcde"})
    assert status == 400 and "is not the UUID of a container request" in answer["errors"][0]


def test_current_user(cluster: Cluster) -> None:
    """users/current is the token's user; of the SystemRootToken, root."""
    assert cluster.active.current_user()["uuid"] == ACTIVE
    root = cluster.call("GET", "/arvados/v1/users/current", token=ROOT_TOKEN)[1]
    assert (root["uuid"], root["is_admin"]) == ("zzzzz-tpzed-000000000000000", True)


@pytest.mark.parametrize(
    ("database", "message"),
    [
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("mysql://host/db", "must be a URL"),
        ("postgresql://user:secret@host", "names no database"),
        ("nonsense", "must be a URL"),
        ("sqlite:////proc/none/db.sqlite", "cannot use the database /proc/none/db.sqlite: No such file"),
    ],
)
def test_database_that_cannot_be(database: str, message: str) -> None:
    """A database that cannot be used is a sentence about the config, before anything is served."""
    with pytest.raises(ConfigError, match=message):
        EmbeddedApi(parse("zzzzz", {"SystemRootToken": ROOT_TOKEN, "EmbeddedAPI": {"Database": database}}))


def test_file_that_is_no_database(tmp_path: Path) -> None:
    """A file of something else is left alone, with a sentence."""
    path = tmp_path / "db.sqlite"
    path.write_text("precious\n" * 100)
    with pytest.raises(ConfigError, match="file is not a database"):
        EmbeddedApi(parse("zzzzz", {"SystemRootToken": ROOT_TOKEN, "EmbeddedAPI": {"Database": f"sqlite:///{path}"}}))
    assert path.read_text() == "precious\n" * 100
