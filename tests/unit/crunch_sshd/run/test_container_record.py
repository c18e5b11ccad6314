from collections.abc import Callable
from typing import Any, cast

import pytest

from arv_ssh.api.client import ApiClient
from arv_ssh.errors import ConfigError, HttpError, NotFound, Unauthorized, Unavailable, Unprocessable
from crunch_sshd.run.container_record import ContainerRecord, api_client

UUID = "zzzzz-dz642-abcdeabcdeabcde"


class Api:
    """Answers each update with the next of ``answers``; an error is raised."""

    def __init__(self, answers: list[HttpError | None], record: dict[str, Any] | None = None) -> None:
        self.answers = answers
        self.record = record or {}
        self.updates: list[dict[str, Any]] = []

    def update(self, _resource: str, _uuid: str, attributes: dict[str, Any]) -> dict[str, Any]:
        self.updates.append(attributes)
        answer = self.answers.pop(0)
        if answer:
            raise answer
        return attributes

    def get(self, _resource: str, _uuid: str) -> dict[str, Any]:
        return self.record


def record_of(api: Api, pause: Callable[[float], bool] = lambda _seconds: True) -> ContainerRecord:
    """Return a record over the double, which waits as ``pause`` says."""
    return ContainerRecord(cast(ApiClient, api), UUID, pause)


def test_an_outage_is_outlived() -> None:
    """While the API is away the update is tried again, with longer and longer pauses."""
    pauses: list[float] = []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        return True

    api = Api([Unavailable("away"), Unavailable("away"), None])
    record_of(api, pause).update({"state": "Running"})
    assert api.updates == [{"state": "Running"}] * 3
    assert pauses == [0.5, 1.0]


def test_a_signal_ends_the_patience() -> None:
    """When there is no point in going on, the API's failure is raised."""
    with pytest.raises(Unavailable):
        record_of(Api([Unavailable("away")]), lambda _seconds: False).update({"state": "Running"})


def test_a_refusal_is_raised_at_once() -> None:
    """What the API refuses is not tried again."""
    with pytest.raises(NotFound):
        record_of(Api([NotFound("no such container")])).update({"state": "Running"})


def test_a_lost_answer_is_recognised() -> None:
    """A refusal after a lost answer is success when the record already shows what was asked for."""
    api = Api([Unavailable("cut off"), Unprocessable("Complete is final")], {"state": "Complete", "exit_code": 3})
    record_of(api).update({"state": "Complete", "exit_code": 3})


def test_the_end_may_take_the_token_with_it() -> None:
    """A lost answer to the last update is recognised by the container's token having ended with it."""
    record_of(Api([Unavailable("cut off"), Unauthorized("no longer valid")], {})).update({"state": "Cancelled"})


def test_a_token_refused_at_once_is_an_error() -> None:
    """Without an outage before, a refused token is reported."""
    with pytest.raises(Unauthorized):
        record_of(Api([Unauthorized("not valid")], {})).update({"state": "Complete"})


def test_a_refusal_after_an_outage_is_still_a_refusal() -> None:
    """When the record shows something else, the refusal stands."""
    api = Api([Unavailable("cut off"), Unprocessable("Cancelled is final")], {"state": "Cancelled"})
    with pytest.raises(Unprocessable):
        record_of(api).update({"state": "Running"})


@pytest.mark.parametrize("missing", ["ARVADOS_API_HOST", "ARVADOS_API_TOKEN"])
def test_missing_settings(missing: str) -> None:
    """Without an API host or token crunch-run says which variable is not set."""
    environment = {"ARVADOS_API_HOST": "api.example", "ARVADOS_API_TOKEN": "v2/token"}
    del environment[missing]
    with pytest.raises(ConfigError, match=f"{missing} is not set"):
        api_client(environment)
