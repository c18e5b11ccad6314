"""Lists of records, page by page, from a controller that is a stand-in."""

from __future__ import annotations

import json
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest

from arv_ssh.client import listing
from arv_ssh.client.controller import Controller


class StandIn:
    """Answers list calls from ``uuids`` as the API does, and notes what was asked."""

    def __init__(self, uuids: list[str]) -> None:
        self.uuids = uuids
        self.asked: list[dict[str, Any]] = []

    def get(self, path: str, kind: str, uuid: str = "") -> dict[str, Any]:
        query = {key: values[0] for key, values in parse_qs(urlsplit(path).query).items()}
        self.asked.append(query)
        after = [term[2] for term in json.loads(query["filters"]) if term[1] == ">"]
        found = [one for one in self.uuids if not after or one > after[-1]]
        return {"items": [{"uuid": one} for one in found[: int(query["limit"])]]}


@pytest.mark.parametrize("count", [0, 1, listing.PAGE, listing.PAGE + 1, 3 * listing.PAGE])
def test_all_pages(count: int) -> None:
    """All records come once and in order, however many pages they fill."""
    uuids = [f"{number:05}" for number in range(count)]
    api = StandIn(uuids)
    found = listing.list_all(cast(Controller, api), "containers", [["state", "=", "Running"]], ["uuid"])
    assert [record["uuid"] for record in found] == uuids
    assert len(api.asked) == count // listing.PAGE + 1
    assert all(query["count"] == "none" and query["select"] == '["uuid"]' for query in api.asked)


@pytest.mark.parametrize("answer", [{}, {"items": None}, {"items": "x"}, {"items": ["x", 1, None]}])
def test_answers_without_records(answer: dict[str, Any]) -> None:
    """What is not a record is left out."""
    api = StandIn([])
    api.get = lambda path, kind, uuid="": answer  # type: ignore[method-assign]
    assert listing.page(cast(Controller, api), "containers") == []
