"""Reading what a client sent, and the promise that nothing it sends makes the API fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arv_ssh.embedded import params
from arv_ssh.embedded.models import ContainerRequest
from arv_ssh.errors import BadRequest
from tests.unit.arv_ssh.embedded.cluster import Cluster
from tests.unit.arv_ssh.embedded.conftest import fresh_database

JSON = {"content-type": "application/json; charset=utf-8"}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["Committed", "bind", "="]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
names = st.sampled_from([column.key for column in ContainerRequest.__table__.columns]) | st.text()
operators = st.sampled_from(["=", "!=", "<", "in", "not in", "like", "is_a", "exists"]) | st.text()
terms = st.tuples(names, operators, values)


def test_query_and_body_are_one() -> None:
    """Parameters of query and body count alike; the body's win."""
    assert params.read("post", "a=1&b=2", JSON, b'{"b": [3]}') == ("POST", {"a": "1", "b": [3]}, False)
    assert params.read("POST", "a=1", {}, b"a=2&c=") == ("POST", {"a": "2", "c": ""}, True)


def test_json_without_its_content_type() -> None:
    """A body that begins as a JSON object is one, unless it is called a form."""
    assert params.read("POST", "", {}, b' {"a": 1}')[1] == {"a": 1}
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert params.read("POST", "", form, b"{=1")[1] == {"{": "1"}


def test_head_is_get_and_only_post_is_overridden() -> None:
    """HEAD is GET without a body; a GET with _method stays a GET."""
    assert params.read("HEAD", "", {}, b"")[0] == "GET"
    assert params.read("GET", "_method=DELETE", {}, b"")[0] == "GET"
    assert params.read("POST", "_method=delete", {}, b"")[0] == "DELETE"
    with pytest.raises(BadRequest, match="BREW is not an HTTP method"):
        params.read("POST", "_method=brew", {}, b"")


def test_attributes_beside_parameters() -> None:
    """Without a wrapper, all that is not a list's or a client's parameter is an attribute."""
    fields = {"name": "x", "select": '["uuid"]', "_method": "PUT", "ensure_unique_name": True}
    assert params.attributes(fields, "group") == {"name": "x"}
    assert params.attributes({"group": '{"name": "y"}', "name": "x"}, "group") == {"name": "y"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def fuzzed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give one cluster to all examples of a fuzz test."""
    with fresh_database(request, tmp_path_factory.mktemp("fuzz")) as database:
        cluster = Cluster(database)
        yield cluster
        cluster.api.close()


def accepted(answer: Any) -> bool:
    """Say whether the API answered in its right mind: a record, or a refusal with a sentence."""
    record = json.loads(answer.body)
    return bool("kind" in record if answer.status == 200 else 400 <= answer.status < 500 and record["errors"][0])


@settings(max_examples=150, deadline=None)
@given(attributes=st.dictionaries(names, values, max_size=5))
def test_any_attributes(fuzzed: Cluster, attributes: dict[str, Any]) -> None:
    """Whatever attributes a request is given, the answer is a record or a 4xx."""
    body = json.dumps({"container_request": attributes}).encode()
    headers = JSON | {"authorization": f"Bearer {fuzzed.root._token}"}
    assert accepted(fuzzed.api.handle("POST", "/arvados/v1/container_requests", "", headers, body))


@settings(max_examples=150, deadline=None)
@given(filters=st.lists(terms, max_size=3) | values, order=values, limit=values)
def test_any_list(fuzzed: Cluster, filters: Any, order: Any, limit: Any) -> None:
    """Whatever filters, order and limit a list is given, the answer is a list or a 4xx."""
    body = json.dumps({"_method": "GET", "filters": filters, "order": order, "limit": limit}).encode()
    headers = JSON | {"authorization": f"Bearer {fuzzed.active._token}"}
    assert accepted(fuzzed.api.handle("POST", "/arvados/v1/container_requests", "", headers, body))


@settings(max_examples=150, deadline=None)
@given(method=st.sampled_from(["GET", "POST", "PATCH"]), path=st.text(), query=st.text(), body=st.binary())
def test_any_request(fuzzed: Cluster, method: str, path: str, query: str, body: bytes) -> None:
    """Whatever is sent to whatever path, the answer is JSON and no failure."""
    headers = {"authorization": f"Bearer {fuzzed.active._token}"}
    for whole in (path, f"/arvados/v1/{path}", f"/arvados/v1/links/{path}", "/arvados/v1/links"):
        assert accepted(fuzzed.api.handle(method, whole, query, headers, body))
