"""What real Arvados says of a failure, and what the user reads of it."""

from __future__ import annotations

from typing import Any

import pytest

from arv_ssh import errors
from arv_ssh.api import failures

UUID = "zzzzz-dz642-abcdeabcdeabcde"
PATH = f"containers/{UUID}"
RAILS = f"//railsapi.internal/arvados/v1/{PATH}"


NOT_FOUND = f"container {UUID} was not found, or may not be read with this token"
CURRENT = "//railsapi.internal/arvados/v1/users/current"
TEXTS: list[tuple[str, int, list[str], type[errors.HttpError], str]] = [
    (PATH, 404, [f"{RAILS}: 404 Not Found: Path not found (req-1k2)"],
     errors.NotFound, f"{NOT_FOUND}: Path not found (req-1k2)"),
    (PATH, 404, [f"request failed: https://10.0.0.1:8003/{PATH}: 404 Not Found: {RAILS}: 404 Not Found: gone"],
     errors.NotFound, f"{NOT_FOUND}: gone"),
    (PATH, 404, [f"container {UUID} was not found"], errors.NotFound, f"container {UUID} was not found"),
    ("users/current", 401, [f"{CURRENT}: 401 Unauthorized: Not logged in (req-1)"],
     errors.Unauthorized, "the API host zzzzz.example.org does not accept the API token: Not logged in (req-1)"),
    (PATH, 403, [f"{RAILS}: 403 Forbidden: forbidden"], errors.Forbidden, "forbidden"),
    (PATH, 422, [f"{RAILS}: 422 Unprocessable Entity: #<ArvadosModel::InvalidStateTransitionError: no>"],
     errors.Unprocessable, "#<ArvadosModel::InvalidStateTransitionError: no>"),
    (PATH, 500, ["#<NoMethodError: nil>"],
     errors.BadGateway, "the API host zzzzz.example.org failed (500): #<NoMethodError: nil>"),
    (PATH, 503, ["too many\nrequests"], errors.Unavailable, "too many requests"),
    (PATH, 504, [f"{RAILS}: 504 Gateway Timeout: slow"], errors.GatewayTimeout, "slow"),
    (PATH, 418, ["teapot"], errors.BadGateway, "teapot"),
    (PATH, 403, ["one", "two"], errors.Forbidden, "one; two"),
    ("containers", 404, ["nothing"], errors.NotFound, "nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "status", "texts", "error", "sentence"), TEXTS)
def test_texts(path: str, status: int, texts: list[str], error: type[Exception], sentence: str) -> None:
    """What each server on the way put before the text goes, and what it is about comes where it was left out."""
    failure = failures.error("zzzzz.example.org", path, status, {"errors": texts, "error_token": "1700000000+abcd"})
    assert (type(failure), str(failure)) == (error, sentence)


@pytest.mark.parametrize("answer", [None, [], {}, {"errors": []}, {"errors": "text"}, {"error": "x"}])
def test_no_reason(answer: Any) -> None:
    """An answer that is not of Arvados' form is named by its status."""
    assert str(failures.error("h", PATH, 502, answer)) == "the API host h answered with status 502 and no reason"


def test_long_text() -> None:
    """A text without end is cut."""
    assert len(str(failures.error("h", PATH, 403, {"errors": ["x" * 100_000]}))) < 1000
