"""Lists of the embedded API: filters, select, order, limit, offset, count."""

from __future__ import annotations

import json
from typing import Any

import pytest

from arv_ssh.embedded import filters
from arv_ssh.errors import BadRequest, Unprocessable
from tests.unit.arv_ssh.embedded.cluster import Cluster

REQUESTS = "/arvados/v1/container_requests"


@pytest.fixture
def named(cluster: Cluster) -> Cluster:
    """Give a cluster with four requests: Alpha, beta, gamma_ray and one without a name, of priorities 1 to 4."""
    for priority, name in enumerate(("Alpha", "beta", "gamma_ray", None), 1):
        extra: dict[str, Any] = {"description": "x"} if name == "beta" else {}
        properties = {"color": name} if name == "Alpha" else {}
        cluster.submit(name=name, priority=priority, properties=properties, use_existing=priority % 2 == 0, **extra)
    return cluster


def priorities(cluster: Cluster, *filters: Any, **parameters: Any) -> list[int]:
    """Return the priorities of the requests that fit."""
    found = cluster.active.list(
        "container_requests", filters=list(filters), **({"order": ["priority"]} | parameters)
    )
    return [item["priority"] for item in found["items"]]


@pytest.mark.parametrize(
    ("terms", "found"),
    [
        ([], [1, 2, 3, 4]),
        ([["name", "=", "beta"]], [2]),
        ([["name", "=", None]], [4]),
        ([["name", "!=", None]], [1, 2, 3]),
        ([["name", "!=", "beta"]], [1, 3, 4]),
        ([["name", "in", ["beta", "Alpha", "nobody"]]], [1, 2]),
        ([["name", "in", ["beta", None]]], [2, 4]),
        ([["name", "in", []]], []),
        ([["name", "not in", ["beta", "Alpha"]]], [3, 4]),
        ([["name", "not in", ["beta", None]]], [1, 3]),
        ([["name", "NOT IN", []]], [1, 2, 3, 4]),
        ([["priority", "<", 3], ["priority", ">=", 2]], [2]),
        ([["priority", "<=", "2"]], [1, 2]),
        ([["priority", ">", 3]], [4]),
        ([["name", "like", "%a"]], [1, 2]),
        ([["name", "like", "alpha"]], []),
        ([["name", "ilike", "alpha"]], [1]),
        ([["name", "like", "BETA"]], []),
        ([["use_existing", "=", True]], [2, 4]),
        ([["use_existing", "=", "false"]], [1, 3]),
        ([["uuid", "is_a", "arvados#containerRequest"]], [1, 2, 3, 4]),
        ([["container_uuid", "is_a", ["arvados#user", "arvados#container"]]], [1, 2, 3, 4]),
        ([["uuid", "is_a", "arvados#user"]], []),
        ([["uuid", "is_a", "arvados#nonsense"]], []),
        ([["properties", "exists", "color"]], [1]),
        ([["properties", "exists", "colour"]], []),
        ([["created_at", "<", "2999-01-01T00:00:00Z"]], [1, 2, 3, 4]),
        ([["created_at", ">", "2001-01-01T00:00:00.5+02:00"]], [1, 2, 3, 4]),
        ([["created_at", "<", "2001-01-01T00:00:00Z"]], []),
        ([["name", "=", "' OR 1=1 --"]], []),
    ],
)
def test_filters(named: Cluster, terms: list[Any], found: list[int]) -> None:
    """Each operator does what Arvados' does; terms are joined by and; null is a value that = and != know."""
    assert priorities(named, *terms) == found


@pytest.mark.parametrize(
    "filters",
    [
        "x", 3, {"name": "x"}, ["name", "=", "x"], [["name", "="]], [["name", "=", "x", "y"]], [[1, "=", 1]],
        [["name", 1, 1]], [["pizza", "=", 1]], [["reuse_key", "=", "x"]], [["name", "~", "x"]], [["name", "=", 3]],
        [["name", "=", ["x"]]], [["name", "=", {}]], [["name", "in", "x"]], [["name", "in", [1]]],
        [["priority", "=", "high"]], [["priority", "=", 1.5]], [["priority", "=", 10**30]], [["priority", "like", "1"]],
        [["priority", "<", None]], [["created_at", ">", "soon"]], [["created_at", ">", 3]], [["command", "=", ["x"]]],
        [["properties", "exists", 3]], [["properties", "exists", 'a"b']], [["name", "exists", "x"]],
        [["name", "like", 3]], [["name", "=", "x"]] * 101, [["name", "in", ["x"] * 10001]], [None], [[]],
        [["name", "like", "%" * 257]], [["name", "like", "%"]] * 6 + [["name", "ilike", "%"]] * 5,
        [["__class__", "=", "x"]], [["digest", "=", "x"]], [["metadata", "=", "x"]],
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_text", [True, False])
def test_nonsense_filters(cluster: Cluster, filters: Any, as_text: bool) -> None:
    """A filter that makes no sense is refused, whether it comes as JSON or as a query's text."""
    if as_text:
        status, answer = cluster.call("GET", REQUESTS, {"filters": json.dumps(filters)})
    else:
        status, answer = cluster.call("POST", REQUESTS, body={"_method": "GET", "filters": filters})
    assert status in (400, 422) and answer["errors"][0], answer


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("filters", "[["), ("select", "[]"), ("select", '["pizza"]'), ("select", '["digest"]'), ("select", "3"),
        ("select", "[[]]"), ("order", "pizza"), ("order", "name sideways"), ("order", "name asc now"), ("order", "[3]"),
        ("order", '["mounts"]'), ("order", "name; drop table users"), ("limit", "-1"), ("limit", "x"), ("limit", "1.5"),
        ("limit", "9" * 30), ("offset", "-1"), ("offset", "²"), ("count", "some"),
    ],
)  # fmt: skip
def test_nonsense_parameters(cluster: Cluster, name: str, value: str) -> None:
    """So is any other parameter of a list."""
    status, answer = cluster.call("GET", REQUESTS, {name: value})
    assert status in (400, 422) and name in answer["errors"][0]


@pytest.mark.parametrize("operator", ["like", "ilike"])
def test_a_pattern_sees_the_beginning_of_a_text(cluster: Cluster, operator: str) -> None:
    """LIKE looks at the first 4096 characters of a text, so that no text however long keeps a thread."""
    text = "a" * (filters.MATCHED_TEXT - 1) + "bc"
    cluster.submit(name=text, priority=1)
    for pattern, found in (("a%", [1]), ("%b", [1]), ("%c", []), ("%c%", []), ("%" * filters.MAX_PATTERN, [1])):
        assert priorities(cluster, ["name", operator, pattern]) == found, pattern
    assert priorities(cluster, ["name", "=", text]) == [1]


def test_list_shape(named: Cluster) -> None:
    """A list says what it is, where it begins, and how many there are; count=none leaves that out."""
    found = named.active.list("container_requests", limit=3, offset=2, order=["priority desc"], select=["priority"])
    kind = "arvados#containerRequest"
    assert found == {
        "kind": "arvados#containerRequestList", "etag": "", "self_link": "", "offset": 2, "limit": 3,
        "items": [{"kind": kind, "priority": 2}, {"kind": kind, "priority": 1}], "items_available": 4,
    }  # fmt: skip
    assert "items_available" not in named.active.list("container_requests", count="none")
    only_count = named.active.list("container_requests", limit=0)
    assert (only_count["items"], only_count["items_available"]) == ([], 4)
    assert named.active.list("container_requests", limit=5000)["limit"] == 1000


def test_order(named: Cluster) -> None:
    """Orders are lists or text, each with a direction; without one the newest comes first."""
    assert priorities(named, order=["use_existing desc", "container_requests.priority desc"]) == [4, 2, 3, 1]
    status, answer = named.call("GET", REQUESTS, {"order": "use_existing, priority desc"})
    assert (status, [item["priority"] for item in answer["items"]]) == (200, [3, 1, 4, 2])
    assert priorities(named, order=None) == [4, 3, 2, 1]


def test_deep_json(cluster: Cluster) -> None:
    """JSON nested too deep to be read is a 400, not a crash."""
    assert cluster.call("GET", REQUESTS, {"filters": "[" * 50_000})[0] == 400


def test_client_sees_the_sentence(cluster: Cluster) -> None:
    """Through the client, the refusal is an exception with that sentence."""
    with pytest.raises(Unprocessable, match="which is not an attribute of containers"):
        cluster.active.list("containers", filters=[["pizza", "=", 1]])
    with pytest.raises(BadRequest):
        cluster.active.create("container_requests", {"name": "\ud800"})
