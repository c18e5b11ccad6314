"""The way from the client to an API in the same process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import requests

from arv_ssh.api.in_process import InProcessAdapter


@dataclass
class Answer:
    """What the function below answers."""

    status: int
    body: bytes


def test_request_and_answer_arrive_whole() -> None:
    """Method, decoded path, query, lower-case headers and body get there; status and body come back."""
    seen = []

    def handle(method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Answer:
        seen.append((method, path, query, headers["x-some-header"], headers["content-type"], body))
        return Answer(422, '{"errors": ["näh"]}'.encode())

    with requests.Session() as session:
        session.mount("https://", InProcessAdapter(handle))
        answer = session.patch(
            "https://embedded.invalid/a%20b/c?x=%2F&y=1", headers={"X-Some-Header": "é"}, json={"ä": 1}
        )
    assert seen == [("PATCH", "/a b/c", "x=%2F&y=1", "é", "application/json", b'{"\\u00e4": 1}')]
    assert (answer.status_code, answer.reason, answer.json()) == (422, "Unprocessable Entity", {"errors": ["näh"]})


def test_request_without_a_body() -> None:
    """A request without a body arrives with an empty one."""
    with requests.Session() as session:
        adapter = InProcessAdapter(lambda method, path, query, headers, body: Answer(200, body or b"{}"))
        session.mount("https://", adapter)
        assert session.get("https://embedded.invalid/").json() == {}
