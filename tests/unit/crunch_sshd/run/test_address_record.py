"""The gateway's address on the record, as a tunnel moves."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, cast

import pytest

from arv_ssh.api.client import ApiClient
from arv_ssh.errors import Unauthorized, Unavailable
from crunch_sshd.run.address_record import AddressRecord
from crunch_sshd.run.container_record import ContainerRecord
from tests.timing import DEADLINE, wait_for

UUID = "zzzzz-dz642-abcdeabcdeabcde"


class Api:
    """An API that notes updates and fails with each of ``failures`` once."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.updates: SimpleQueue[str] = SimpleQueue()

    def update(self, resource: str, uuid: str, attributes: dict[str, Any]) -> dict[str, Any]:
        if self.failures:
            raise self.failures.pop(0)
        self.updates.put(attributes["gateway_address"])
        return {}


def following(api: Api, pause: Callable[[float], bool] = lambda seconds: True) -> AddressRecord:
    return AddressRecord(ContainerRecord(cast(ApiClient, api), UUID, pause))


def test_following() -> None:
    """What was told before the record had an address counts too; an address that is recorded is not sent again."""
    api = Api()
    addresses = following(api)
    addresses.moved("tunnel https://a/")
    addresses.start("")
    assert api.updates.get(timeout=DEADLINE) == "tunnel https://a/"
    addresses.moved("tunnel https://a/")
    wait_for(lambda: addresses._addresses.empty())
    addresses.moved("tunnel https://b/")
    assert api.updates.get(timeout=DEADLINE) == "tunnel https://b/"
    addresses.stop()
    assert api.updates.empty()


def test_an_api_that_is_away() -> None:
    """An outage of the API is waited out, not in the main thread's way of waiting."""

    def pause(seconds: float) -> bool:
        raise AssertionError("the main thread's pause is the main thread's")

    api = Api(Unavailable("away"))
    addresses = following(api, pause)
    addresses.start("")
    addresses.moved("tunnel https://a/")
    assert api.updates.get(timeout=DEADLINE) == "tunnel https://a/"
    addresses.stop()


def test_a_refusal(caplog: pytest.LogCaptureFixture) -> None:
    """A refusal is logged, and the next address is tried."""
    api = Api(Unauthorized("the token is no more"))
    addresses = following(api)
    addresses.start("")
    addresses.moved("tunnel https://a/")
    wait_for(lambda: "is not recorded" in caplog.text)
    addresses.moved("tunnel https://b/")
    assert api.updates.get(timeout=DEADLINE) == "tunnel https://b/"
    addresses.stop()
