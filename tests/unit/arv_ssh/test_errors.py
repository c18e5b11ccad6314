"""The hierarchy of errors: every status of the wire has one class."""

from __future__ import annotations

import pytest

from arv_ssh import errors


def _http_errors() -> list[type[errors.HttpError]]:
    return errors.HttpError.__subclasses__()


@pytest.mark.parametrize("kind", _http_errors(), ids=lambda kind: kind.__name__)
def test_status_round_trip(kind: type[errors.HttpError]) -> None:
    """An error keeps its class and its sentence over the wire, and a command ends with 255 for it."""
    again = errors.from_status(kind.status, "a sentence")
    assert isinstance(again, kind) and str(again) == "a sentence" and again.exit_code == 255


def test_wire_statuses() -> None:
    """The statuses the wire description names are all there, each once."""
    statuses = [kind.status for kind in _http_errors()]
    assert len(set(statuses)) == len(statuses)
    assert {400, 401, 403, 404, 410, 422, 429, 431, 502, 503, 504} <= set(statuses)


@pytest.mark.parametrize("status", [200, 302, 418, 500, 599])
def test_unknown_status(status: int) -> None:
    """A status that is no error of ours is the other server's fault."""
    assert type(errors.from_status(status, "x")) is errors.BadGateway
