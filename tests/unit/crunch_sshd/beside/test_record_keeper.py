"""What is written to the record, and when: by the words of a sidecar, and its silence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from arv_ssh.api.client import ApiClient
from arv_ssh.errors import Forbidden, Unavailable
from crunch_sshd.beside import record_keeper
from crunch_sshd.beside.record_keeper import Inbox, RecordKeeper
from crunch_sshd.gateway import control
from crunch_sshd.gateway.control import Control
from crunch_sshd.run.container_record import ContainerRecord
from tests.timing import DEADLINE

UUID = "zzzzz-dz642-abcdeabcdeabcde"
INNER, OURS = "127.0.0.1:4001", "10.0.0.7:4002"


class Site:
    """The API and the engine: how often either is asked before the container runs, and what was written."""

    def __init__(self) -> None:
        self.record: dict[str, Any] = {"state": "Running", "gateway_address": INNER}
        self.earlier_records: list[dict[str, Any]] = []
        self.looks = 0
        self.written: list[Any] = []
        self.refusals: list[Exception] = []

    def get(self, _resource: str, _uuid: str) -> dict[str, Any]:
        return self.earlier_records.pop(0) if self.earlier_records else self.record

    def update(self, _resource: str, _uuid: str, attributes: dict[str, Any]) -> dict[str, Any]:
        if self.refusals:
            raise self.refusals.pop(0)
        self.written.append(attributes)
        return attributes

    def find(self) -> str:
        self.looks -= 1
        return "" if self.looks >= 0 else "a container"

    def watch(self, changed: Any) -> None:
        """The engine's events are missed: nobody is told."""


class Sidecar:
    """The sidecar's end, and the process on a thread."""

    def __init__(self, site: Site) -> None:
        self.control, theirs = control.pair()
        self._keepers = keepers = Control(theirs)
        inbox = Inbox(keepers)
        record = ContainerRecord(cast(ApiClient, site), UUID, inbox.pause)
        self.raised: list[BaseException] = []
        keeper = RecordKeeper(UUID, record, keepers, inbox)
        self._thread = threading.Thread(target=self._run, args=(keeper,), daemon=True)
        self._thread.start()
        self.control.send("stock", pid=1)

    def _run(self, keeper: RecordKeeper) -> None:
        try:
            keeper.run("docker")
        except BaseException as error:
            self.raised.append(error)

    def announced(self) -> None:
        """Have the container found and our address recorded."""
        assert self.control.receive() == {"kind": "found", "container": "a container", "inner": INNER}
        self.control.send("address", address=OURS)
        assert self.control.receive() == {"kind": "recorded"}

    def end(self) -> None:
        """Wait for the process's end."""
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        self.control.close()
        for thread in threading.enumerate():
            if thread.name == "control":
                thread.join(DEADLINE)  # it has read the end, and reads no more
        self._keepers.close()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    result = Site()
    monkeypatch.setattr(record_keeper, "search", lambda engine, uuid, stock: result)
    monkeypatch.setattr(record_keeper, "FIRST_LOOK", 0.01)
    yield result


def test_a_life(site: Site) -> None:
    """Our address is written once stock's is there; after an orderly end nothing more is."""
    site.looks = 3
    site.earlier_records = [{"state": "Locked", "gateway_address": OURS}, {"state": "Running", "gateway_address": None}]
    sidecar = Sidecar(site)
    sidecar.announced()
    for address in ("tunnel https://a", "tunnel https://a", "tunnel https://b"):
        sidecar.control.send("address", address=address)
    sidecar.control.send("stop")
    sidecar.end()
    addresses = [OURS, "tunnel https://a", "tunnel https://b"]
    assert site.written == [{"gateway_address": address} for address in addresses] and not sidecar.raised


def test_sidecar_gone(site: Site) -> None:
    """When the sidecar is gone without a word, stock's address is written back, over an API that is away."""
    sidecar = Sidecar(site)
    sidecar.announced()
    site.refusals = [Unavailable("away")]
    sidecar.control.close()
    sidecar.end()
    assert site.written == [{"gateway_address": OURS}, {"gateway_address": INNER}] and not sidecar.raised


def test_sidecar_gone_early(site: Site) -> None:
    """Before our address is on the record there is nothing to write back."""
    site.looks = 1_000_000
    sidecar = Sidecar(site)
    sidecar.control.close()
    sidecar.end()
    assert site.written == [] and not sidecar.raised


def test_refused(site: Site) -> None:
    """What the API refuses ends it."""
    site.refusals = [Forbidden("no")]
    sidecar = Sidecar(site)
    assert sidecar.control.receive()["kind"] == "found"
    sidecar.control.send("address", address=OURS)
    sidecar.end()
    assert isinstance(sidecar.raised[0], Forbidden) and site.written == []
