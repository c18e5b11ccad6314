"""Requests and answers by themselves: forms, tokens, the client's address."""

from __future__ import annotations

import pytest

from arv_ssh.errors import BadRequest
from arv_ssh.net import http_messages
from arv_ssh.net.http_messages import Request, peer_address


def test_form_of_a_json_body() -> None:
    """A JSON body is no form; the query still is."""
    request = Request("POST", "/", "a=1", {"content-type": "application/json"}, b"a=2", "", "r")
    assert request.form() == {"a": "1"}


@pytest.mark.parametrize("in_query", [True, False])
def test_form_of_very_many_fields(in_query: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many fields are refused by their number, before any of them is read; as many as may be are read."""
    read: list[str] = []

    def unquote(text: str, *_: object, **__: object) -> str:
        read.append(text)
        return text

    monkeypatch.setattr("urllib.parse.unquote", unquote)

    def form(fields: int) -> dict[str, str]:
        text = "&".join(["a=b"] * fields)
        return Request("POST", "/", text if in_query else "", {}, b"" if in_query else text.encode(), "", "r").form()

    with pytest.raises(BadRequest, match=f"over {http_messages.MAX_FIELDS} fields"):
        form(http_messages.MAX_FIELDS + 1)
    assert read == []
    assert form(http_messages.MAX_FIELDS) == {"a": "b"} and "a" in read


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("OAuth2 abc", "abc"), ("Basic abc", ""), ("abc", ""), ("", "")],
)
def test_token(header: str, token: str) -> None:
    """Both of Arvados' schemes give the token, another none."""
    assert Request("GET", "/", "", {"authorization": header}, b"", "", "r").token() == token


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("8.8.8.8", None, "8.8.8.8"),
        ("8.8.8.8", "8.8.4.4", "8.8.8.8"),
        ("127.0.0.1", "8.8.4.4", "8.8.4.4"),
        ("10.1.2.3", "1.2.3.4, 8.8.4.4", "8.8.4.4"),
        ("::1", "2001:4860:4860::8844", "2001:4860:4860::8844"),
        ("127.0.0.1", "unknown", "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("", "8.8.4.4", ""),
    ],
)
def test_peer_address(peer: str, forwarded: str | None, expected: str) -> None:
    """What a proxy on a private address appended to X-Forwarded-For counts, and nobody else's word."""
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    assert peer_address(Request("POST", "/", "", headers, b"", peer, "req-1")) == expected
