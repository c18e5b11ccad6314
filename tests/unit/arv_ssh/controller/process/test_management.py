"""Who may ask for health and metrics."""

import pytest

from arv_ssh.controller.process import management
from arv_ssh.errors import Forbidden, HttpError, NotFound, Unauthorized
from arv_ssh.net.http_messages import Request


def request(authorization: str = "") -> Request:
    headers = {"authorization": authorization} if authorization else {}
    return Request("GET", "/_health/ping", "", headers, b"", "192.0.2.7", "req-1")


def test_right_token() -> None:
    """The cluster's ManagementToken is let through."""
    management.check(request("Bearer sesame"), "sesame")


@pytest.mark.parametrize(
    ("authorization", "token", "kind", "sentence"),
    [
        ("", "sesame", Unauthorized, "/_health/ping needs the cluster's ManagementToken as a Bearer token"),
        ("Bearer other", "sesame", Forbidden, "another token was sent"),
        ("Bearer other", "", NotFound, "the cluster's config has no ManagementToken"),
        ("", "", NotFound, "switched off"),
    ],
)
def test_everybody_else(authorization: str, token: str, kind: type[HttpError], sentence: str) -> None:
    """No token is 401, a wrong one 403, and without one in the config there is nothing, as in Arvados' own services."""
    with pytest.raises(kind, match=sentence) as caught:
        management.check(request(authorization), token)
    assert "other" not in str(caught.value).replace("another", "")
