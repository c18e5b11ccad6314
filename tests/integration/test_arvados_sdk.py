"""Arvados' own Python client library against the embedded API, as it comes from PyPI and with no patch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from arv_ssh.cli.cluster_up import USER_UUIDS
from arv_ssh.config import cluster_config
from tests.integration.controllers import Controller, controller, new_user
from tests.integration.embedded_cluster import BUSYBOX, EmbeddedCluster
from tests.timing import wait_for

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the library's dependencies say of themselves
    import arvados
    import arvados.errors
    import arvados.util

WORK = {
    "name": "a test's, by the SDK",
    "command": ["sleep", "1000000"],
    "container_image": BUSYBOX,
    "cwd": ".",
    "output_path": "/tmp",
    "mounts": {"/tmp": {"kind": "tmp", "capacity": 1 << 20}},
    "runtime_constraints": {"vcpus": 1, "ram": 256 << 20},
    "use_existing": False,
}


@pytest.fixture(scope="module")
def alone(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    """A controller with a database of its own and no dispatcher, so that containers stay as the tests make them."""
    directory = tmp_path_factory.mktemp("controller")
    database = {"Database": f"sqlite:///{directory}/db.sqlite"}
    # Without an ExternalURL, the discovery document names the host that was asked.
    with controller(cluster, directory, {"User": True}, EmbeddedAPI=database, Services=None) as running:
        yield running


@contextmanager
def sdk(host: str, token: str) -> Iterator[Any]:
    api = arvados.api("v1", host=host, token=token, num_retries=0)
    yield api
    api.close_connections()


@pytest.fixture(autouse=True)
def settings(cluster: EmbeddedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the library its CA file and its cache directory by the environment, as any program that uses it has them."""
    monkeypatch.setenv("SSL_CERT_FILE", str(cluster.directory.ca))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def active_token(alone: Controller) -> str:
    return new_user(alone.root, "active")[1]


@pytest.fixture
def active(alone: Controller, active_token: str) -> Iterator[Any]:
    """The library with a user's token."""
    with sdk(alone.address, active_token) as api:
        yield api


@pytest.fixture
def root(cluster: EmbeddedCluster, alone: Controller) -> Iterator[Any]:
    """The library with the SystemRootToken, as a dispatcher has it."""
    with sdk(alone.address, cluster_config.load(cluster.directory.config).system_root_token) as api:
        yield api


def create(api: Any, **attributes: Any) -> dict[str, Any]:
    made: dict[str, Any] = (
        api.container_requests().create(body={"container_request": WORK | attributes}).execute()
    )
    return made


def test_a_running_container(cluster: EmbeddedCluster) -> None:
    """A user of a whole cluster submits a request and follows its container until it runs, by the SDK alone."""
    host = urlsplit(cluster_config.load(cluster.directory.config).controller_url).netloc
    with sdk(host, cluster.directory.token_file("active").read_text().strip()) as api:
        assert api.users().current().execute()["uuid"] == USER_UUIDS["active"]
        request = create(api, state="Committed", priority=500)
        container = api.containers().get(uuid=request["container_uuid"])
        wait_for(lambda: container.execute()["state"] == "Running", "the container to run")
        cancel = {"container_request": {"priority": 0}}
        api.container_requests().update(uuid=request["uuid"], body=cancel).execute()
        wait_for(lambda: container.execute()["state"] == "Cancelled", "the container's end")


def test_a_request_from_its_creation_to_its_end(active: Any) -> None:
    """A request is created, read, committed and deleted; an error is the SDK's own, with our sentence."""
    requests = active.container_requests()
    made = create(active, state="Uncommitted")
    assert made["state"] == "Uncommitted" and made["container_uuid"] is None
    assert requests.get(uuid=made["uuid"]).execute()["command"] == WORK["command"]
    changes = {"container_request": {"state": "Committed", "priority": 7}}
    committed = requests.update(uuid=made["uuid"], body=changes).execute()
    shown = ["uuid", "state", "priority"]
    container = active.containers().get(uuid=committed["container_uuid"], select=shown).execute()
    assert (container["state"], container["priority"]) == ("Queued", 7) and "command" not in container
    assert requests.delete(uuid=made["uuid"]).execute()["uuid"] == made["uuid"]
    with pytest.raises(arvados.errors.ApiError, match="was not found") as caught:
        requests.get(uuid=made["uuid"]).execute()
    assert caught.value.resp.status == 404


def test_lists(active: Any) -> None:
    """Lists are filtered, ordered, selected, cut and counted; the SDK's walk over all pages finds each record once."""
    made = [create(active, name="a test's for lists", state="Uncommitted")["uuid"] for _ in range(5)]
    requests = active.container_requests()
    filters = [["name", "=", "a test's for lists"], ["state", "in", ["Uncommitted", "Committed"]]]
    page = requests.list(filters=filters, order=["created_at desc"], select=["uuid"], limit=2, offset=1).execute()
    assert [item["uuid"] for item in page["items"]] == [made[3], made[2]]
    assert page["items_available"] == 5 and "command" not in page["items"][0]
    walked = arvados.util.keyset_list_all(requests.list, filters=filters, limit=2)
    assert sorted(item["uuid"] for item in walked) == sorted(made)
    assert "items_available" not in requests.list(filters=filters, count="none").execute()


def test_a_dispatchers_calls(root: Any) -> None:
    """A container is listed, locked, given back, locked again, set to run, and brought to its end."""
    uuid = create(root, state="Committed", priority=1)["container_uuid"]
    containers = root.containers()
    queued = containers.list(filters=[["state", "=", "Queued"], ["uuid", "=", uuid]]).execute()
    assert [item["uuid"] for item in queued["items"]] == [uuid]
    assert containers.lock(uuid=uuid).execute()["state"] == "Locked"
    assert containers.unlock(uuid=uuid).execute()["state"] == "Queued"
    containers.lock(uuid=uuid).execute()
    assert containers.auth(uuid=uuid).execute()["api_token"]
    for changes in ({"state": "Running", "gateway_address": "127.0.0.1:9"}, {"state": "Complete", "exit_code": 3}):
        changed = containers.update(uuid=uuid, body={"container": changes}).execute()
        assert {name: changed[name] for name in changes} == changes
    with pytest.raises(arvados.errors.ApiError, match="cannot become 'Running'") as caught:
        containers.update(uuid=uuid, body={"container": {"state": "Running"}}).execute()
    assert caught.value.resp.status == 422


def test_collections(active: Any, root: Any) -> None:
    """The library saves a collection, finds it by its content, and trashes it; config and keepstores are told."""
    body = {"collection": {"name": "by the SDK", "manifest_text": ". acbd18db4cc2f85cedef654fccc4a4d8+3 0:3:foo\n"}}
    made = active.collections().create(body=body).execute()
    again = active.collections().create(body=body, ensure_unique_name=True).execute()
    assert made["portable_data_hash"] == "1f4b0bc7583c2a7f9102c395f4ffc5e3+45" and again["name"] != made["name"]
    found = active.collections().get(uuid=made["portable_data_hash"]).execute()
    assert found["manifest_text"] == made["manifest_text"]
    active.collections().delete(uuid=made["uuid"]).execute()
    listed = arvados.util.keyset_list_all(active.collections().list)
    assert [one["uuid"] for one in listed] == [again["uuid"]]
    trashed = active.collections().get(uuid=made["uuid"], include_trash=True).execute()
    assert trashed["is_trashed"]
    assert active.configs().get().execute()["ClusterID"] == "zzzzz"
    assert active.config()["API"]["MaxItemsPerResponse"] == 1000
    assert active.keep_services().accessible().execute()["items"] == []
