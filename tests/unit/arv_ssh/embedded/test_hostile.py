"""A colleague who means harm: with a right to write, with tokens that are not worth much, and with lists made to hurt.

Each call is answered with a sentence and a 4xx, or in bounded time and memory.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert

from arv_ssh.embedded import filters, params, permissions, records
from arv_ssh.embedded.models import Group
from arv_ssh.embedded.store import Store
from arv_ssh.errors import Forbidden, HttpError, NotFound
from tests.unit.arv_ssh.embedded.cluster import ACTIVE, ADMIN, SPECTATOR, WORK, Cluster

REQUESTS = "/arvados/v1/container_requests"


@pytest.fixture(params=["the request", "its project"])
def shared(cluster: Cluster, request: pytest.FixtureRequest) -> tuple[Cluster, dict[str, Any]]:
    """Give a committed request of the active user, and spectator the right to write it, or the project it is in."""
    project = cluster.active.create("groups", {"name": "p", "group_class": "project"})["uuid"]
    made = cluster.submit(owner_uuid=project)
    head = made["uuid"] if request.param == "the request" else project
    link = {"link_class": "permission", "name": "can_write", "tail_uuid": SPECTATOR, "head_uuid": head}
    cluster.active.create("links", link)
    return cluster, made


CHANGES: tuple[dict[str, Any], ...] = (
    {"owner_uuid": SPECTATOR},
    {"submitted_by_user_uuid": SPECTATOR},
    {"modified_by_user_uuid": ADMIN},
    {"modified_by_user_uuid": None},
    {"container_uuid": "zzzzz-dz642-000000000000000"},
    {"requesting_container_uuid": "zzzzz-dz642-000000000000000"},
    {"state": "Uncommitted"},
    {"uuid": "zzzzz-xvhdp-000000000000000"},
    {"command": ["sh"]},
    {"container_image": "other"},
    {"cwd": "/root"},
    {"environment": {"LD_PRELOAD": "x"}},
    {"mounts": {"/mnt": {"kind": "bind", "path": "/etc"}}},
    {"runtime_constraints": {**WORK["runtime_constraints"], "shell_access": True}},
    {"runtime_constraints": {**WORK["runtime_constraints"], "user": "root"}},
    {"scheduling_parameters": {"preemptible": True}},
    {"use_existing": True},
)


def test_what_a_colleague_cannot_change(shared: tuple[Cluster, dict[str, Any]]) -> None:
    """A colleague changes nothing that decides who may enter, or what is mounted and run, once it is committed."""
    cluster, made = shared
    for change in CHANGES:
        with pytest.raises(HttpError) as raised:
            pytest.fail(f"changed: {cluster.spectator.update('container_requests', made['uuid'], change)}")
        assert 400 <= raised.value.status < 500
        assert cluster.root.get("container_requests", made["uuid"]) == made


def test_what_a_colleague_can_change(shared: tuple[Cluster, dict[str, Any]]) -> None:
    """A colleague can rename it and set its priority, which leaves its owner and its submitter."""
    cluster, made = shared
    cluster.spectator.update("container_requests", made["uuid"], {"name": "renamed", "priority": 1})
    now = cluster.root.get("container_requests", made["uuid"])
    assert (now["name"], now["priority"], now["modified_by_user_uuid"]) == ("renamed", 1, SPECTATOR)
    assert (now["owner_uuid"], now["submitted_by_user_uuid"]) == (made["owner_uuid"], ACTIVE)
    with pytest.raises(Forbidden):
        cluster.spectator.delete("container_requests", made["uuid"])


def test_who_commits_anothers_request_has_submitted_it(cluster: Cluster) -> None:
    """A colleague who commits another user's prepared request enters as its submitter; its owner does not."""
    made = cluster.submit(state="Uncommitted")
    link = {"link_class": "permission", "name": "can_write", "tail_uuid": SPECTATOR, "head_uuid": made["uuid"]}
    cluster.active.create("links", link)
    with pytest.raises(Forbidden, match="only an administrator may mount host directories"):
        cluster.spectator.update(
            "container_requests", made["uuid"], {"mounts": {"/mnt": {"kind": "bind", "path": "/etc"}}}
        )
    now = cluster.spectator.update("container_requests", made["uuid"], {"command": ["id"], "state": "Committed"})
    assert now["submitted_by_user_uuid"] == SPECTATOR
    assert cluster.root.get("containers", now["container_uuid"])["runtime_user_uuid"] == SPECTATOR


def test_an_administrators_prepared_mount(cluster: Cluster) -> None:
    """What an administrator has prepared with a directory of the host is not a colleague's to change or to commit."""
    mounts = {"/mnt": {"kind": "bind", "path": "/etc"}}
    made = cluster.submit(cluster.admin, state="Uncommitted", mounts=mounts)
    link = {"link_class": "permission", "name": "can_write", "tail_uuid": SPECTATOR, "head_uuid": made["uuid"]}
    cluster.admin.create("links", link)
    for change in ({"command": ["cat", "/mnt/shadow"]}, {"state": "Committed"}):
        with pytest.raises(Forbidden, match="only an administrator may mount host directories"):
            cluster.spectator.update("container_requests", made["uuid"], change)


@pytest.mark.parametrize("scope", ["POST /arvados/v1/api_client_authorizations", "PATCH /arvados/v1/"])
def test_a_scoped_token_makes_none_of_more_scope(cluster: Cluster, scope: str) -> None:
    """A token for part of the API neither makes a token for all of it nor becomes one."""
    token = cluster.token(ACTIVE, scopes=[scope])
    client, uuid = cluster.client(token), token.split("/")[1]
    with pytest.raises(Forbidden, match="is limited to part of the API"):
        client.create("api_client_authorizations", {"scopes": ["all"]})
    with pytest.raises(Forbidden, match="is limited to part of the API"):
        client.update("api_client_authorizations", uuid, {"scopes": ["all"]})
    assert cluster.root.get("api_client_authorizations", uuid)["scopes"] == [scope]


def test_a_scoped_token_is_not_an_administrators(cluster: Cluster) -> None:
    """A limited token of an administrator gives none of an administrator's rights, whatever its scope."""

    client = cluster.client(cluster.token(ADMIN, scopes=["GET /arvados/v1/", "PATCH /arvados/v1/"]))
    made = cluster.submit()
    with pytest.raises(NotFound):
        client.get("container_requests", made["uuid"])
    with pytest.raises(NotFound):
        client.update("container_requests", made["uuid"], {"name": "x"})


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_tokens_that_are_worth_nothing(cluster: Cluster, method: str) -> None:
    """An expired token, one of another cluster, and another token's secret open nothing, not even its own extension."""
    expired = cluster.token(ACTIVE, expires_at="2001-01-01T00:00:00Z")
    uuid, secret = expired.split("/")[1:]
    foreign = f"v2/yyyyy-gj3su-000000000000000/{secret}"
    mixed = f"v2/{uuid}/{cluster.token(ACTIVE).split('/')[2]}"
    for token in (expired, secret, foreign, mixed):
        for path in (REQUESTS, f"/arvados/v1/api_client_authorizations/{uuid}", "/arvados/v1/users/current"):
            status, answer = cluster.call(method, path, token=token, body={"expires_at": None})
            assert (status, len(answer["errors"])) == (401, 1)
            assert secret not in answer["errors"][0]


LISTS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"filters": [["priority", "in", [1] * 5001]] * 2}, "filters has 10002 values in its arrays"),
    ({"filters": [["name", "=", "x"]] * 101}, "filters must be a JSON array of at most 100"),
    ({"filters": [["and", [["name", "=", "x"]]]]}, "a filter must be [attribute, operator, operand]"),
    ({"filters": [[[[["name"]]], "=", 1]]}, "a filter must be [attribute, operator, operand]"),
    ({"filters": [["x" * 1_000_000, "=", 1]]}, "a filter names 'xxx"),
    ({"filters": [["name", "x" * 1_000_000, 1]]}, "a filter has the operator 'xxx"),
    ({"filters": [["properties", "exists", "x" * 10_000]]}, "a filter with exists needs the name of a key"),
    ({"filters": [["cumulative_cost", "=", 10**400]]}, "cumulative_cost must be a number below 1e308"),
    ({"filters": [["priority", "=", 10**400]]}, "priority must be an integer of at most"),
    ({"order": ["priority"] * 10_000}, "order must be a JSON array of at most 20 terms"),
    ({"order": ",".join(["priority"] * 10_000)}, "order must be a JSON array of at most 20 terms"),
    ({"order": ["mounts"]}, "order has 'mounts'"),
    ({"order": ["(select digest from api_client_authorizations)"]}, "order has '(select digest"),
    ({"order": ["x" * 1_000_000]}, "order has 'xxx"),
    ({"order": [[["priority"]]]}, "order has [["),
    ({"select": ["x" * 1_000_000]}, "select names 'xxx"),
    ({"select": ["digest"]}, "select names 'digest'"),
    ({"limit": -1}, "limit must be an integer from 0"),
    ({"limit": 10**30}, "limit must be an integer from 0"),
    ({"limit": 1.5}, "limit must be an integer from 0"),
    ({"offset": 2**31}, "offset must be an integer from 0"),
    ({"offset": [1]}, "offset must be an integer from 0"),
    ({"count": "everything" * 100_000}, "count must be exact or none"),
)


def test_lists_made_to_hurt(cluster: Cluster) -> None:
    """What is too much, too deep or not an attribute is refused with a short sentence, never left to the database."""
    spectator = cluster.token(SPECTATOR)
    for fields, sentence in LISTS:
        status, answer = cluster.call("POST", REQUESTS, token=spectator, body={"_method": "GET", **fields})
        assert status == 422 and sentence in answer["errors"][0]
        assert len(answer["errors"][0]) < 1100


def test_what_is_hidden(cluster: Cluster) -> None:
    """No one selects, sorts or filters by what never leaves the database, not even administrators."""
    for resource, name in (("api_client_authorizations", "digest"), ("containers", "reuse_key")):
        for field, value in (("select", [name]), ("order", [name]), ("filters", [[name, ">", "a"]])):
            status, answer = cluster.call("GET", f"/arvados/v1/{resource}", {field: json.dumps(value)})
            assert status == 422 and repr(name) in answer["errors"][0]


def test_no_list_shows_a_secret(cluster: Cluster) -> None:
    """The secret of a token is in no list, also when it is selected."""
    answer = cluster.active.list("api_client_authorizations", select=["uuid", "api_token"])
    assert answer["items"] and all(set(item) == {"uuid", "kind"} for item in answer["items"])


def test_extremes_that_are_allowed(cluster: Cluster) -> None:
    """The highest offset and limit, and an attribute selected a hundred thousand times, are just lists."""
    made = cluster.submit()
    body = {"_method": "GET", "limit": records.MAX_INTEGER, "select": ["uuid"] * 100_000}
    status, answer = cluster.call("POST", REQUESTS, body=body)
    assert (status, answer["limit"]) == (200, filters.MAX_LIMIT)
    assert [set(item) for item in answer["items"]] == [{"uuid", "kind"}] and answer["items"][0]["uuid"] == made["uuid"]
    status, answer = cluster.call("POST", REQUESTS, body={"_method": "GET", "offset": records.MAX_INTEGER})
    assert (status, answer["items"], answer["items_available"]) == (200, [], 1)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def test_deep_records(cluster: Cluster) -> None:
    """What is nested too deep is refused when it is stored, not when others list it."""
    made = cluster.submit(properties=nested(params.MAX_DEPTH - 5))
    for depth in (params.MAX_DEPTH + 1, 500, 900, 10_000):
        text = '{"properties":' + '{"a":' * depth + "1" + "}" * depth + "}"
        status, answer = cluster.call("PATCH", f"{REQUESTS}/{made['uuid']}", body=text.encode(),
                                      headers={"content-type": "application/json"})  # fmt: skip
        assert (status, len(answer["errors"])) == (400, 1)
    (item,) = cluster.active.list("container_requests")["items"]
    assert item["properties"] == made["properties"]


def test_a_list_of_big_records_ends_early(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list stops at a size, with at least one record; list_all fetches the rest all the same."""
    made = {cluster.submit(properties={"big": "x" * 10_000})["uuid"] for _ in range(5)}
    monkeypatch.setattr(filters, "MAX_SIZE", 20_000)
    answer = cluster.active.list("container_requests")
    assert (len(answer["items"]), answer["items_available"]) == (2, 5)
    assert {item["uuid"] for item in cluster.active.list_all("container_requests")} == made
    monkeypatch.setattr(filters, "MAX_SIZE", 1)
    assert len(cluster.active.list("container_requests")["items"]) == 1
    assert {item["uuid"] for item in cluster.active.list_all("container_requests")} == made


def own_groups(database: str, owners: list[str]) -> None:
    """Put a project of each of ``owners`` into the database, numbered in their order."""
    now = datetime.now(UTC)
    rows: list[dict[str, Any]] = [
        {"uuid": group(number), "owner_uuid": owner, "created_at": now, "modified_at": now, "group_class": "project",
         "properties": {}, "name": None}
        for number, owner in enumerate(owners)
    ]  # fmt: skip
    store = Store(database)
    with store.write() as session:
        session.execute(insert(Group), rows)
    store.close()


def group(number: int) -> str:
    return f"zzzzz-j7d0g-{number:015}"


def test_a_colleague_who_shares_very_much(cluster: Cluster, database: str) -> None:
    """A user who is given more projects than a statement takes parameters can still list what is in the last one."""
    count = 33_000  # above SQLite's 32,766; twice in a statement, above PostgreSQL's 65,535
    own_groups(database, [ACTIVE, *[group(0)] * count])
    link = {"link_class": "permission", "name": "can_read", "tail_uuid": SPECTATOR, "head_uuid": group(0)}
    cluster.active.create("links", link)
    made = cluster.submit(owner_uuid=group(count))
    (item,) = cluster.spectator.list("container_requests")["items"]
    assert item["uuid"] == made["uuid"]


def test_groups_in_groups_without_end(cluster: Cluster, database: str) -> None:
    """Permissions flow through a chain of projects as far as the limit; a call never takes more steps than that."""
    own_groups(database, [ACTIVE, *(group(number) for number in range(permissions.MAX_STEPS + 10))])
    near, far = (cluster.root.create("container_requests", {**WORK, "owner_uuid": group(number)})["uuid"]
                 for number in (permissions.MAX_STEPS - 2, permissions.MAX_STEPS + 5))  # fmt: skip
    assert cluster.active.get("container_requests", near)["uuid"] == near
    with pytest.raises(NotFound):
        cluster.active.get("container_requests", far)
