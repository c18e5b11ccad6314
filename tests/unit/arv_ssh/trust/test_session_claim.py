"""The session text: its exact form, its way there and back, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arv_ssh.errors import BadRequest
from arv_ssh.trust import session_claim
from arv_ssh.trust.session_claim import SessionClaim
from tests.unit.arv_ssh.trust.test_credentials import CONTAINER, SESSION

PUBLISHED = SessionClaim(CONTAINER, 1_800_000_000, "", "req-0123456789abcdefghij", "zzzzz-tpzed-xurymjxw79nv3jz")

texts = st.text(st.characters(exclude_categories=["Cs"]))


def wire(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_vector() -> None:
    """The published session's text is exact: the proof is over these very bytes."""
    assert session_claim.encode(PUBLISHED) == SESSION
    assert session_claim.decode(SESSION) == PUBLISHED


@given(st.builds(SessionClaim, texts, st.integers(), texts, texts, texts))
def test_round_trip(session: SessionClaim) -> None:
    """Any session comes back from its text, which is safe in a header."""
    text = session_claim.encode(session)
    assert session_claim.decode(text) == session
    assert text.isascii() and not set(text) & set("=+/\r\n ")


@given(st.text())
def test_any_text_is_a_session_or_a_bad_request(text: str) -> None:
    """Whatever a header holds, the answer is a session or a BadRequest, and nothing else is raised."""
    try:
        session_claim.decode(text)
    except BadRequest:
        pass


FIELDS = {"container_uuid": "c", "exp": 1, "login_username": "", "request_id": "r", "user_uuid": "u"}


@pytest.mark.parametrize(
    "value",
    [
        [],
        "text",
        None,
        {},
        {name: value for name, value in FIELDS.items() if name != "exp"},
        FIELDS | {"more": 1},
        FIELDS | {"exp": "1"},
        FIELDS | {"exp": True},
        FIELDS | {"exp": 1.5},
        FIELDS | {"login_username": None},
        FIELDS | {"user_uuid": ["u"]},
    ],
    ids=repr,
)
def test_wrong_fields(value: Any) -> None:
    """A field too many, too few, or of another type is a bad request."""
    with pytest.raises(BadRequest, match="session header"):
        session_claim.decode(wire(value))
