"""Visits: what is recorded of them, and how many requests may be under way."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from arv_ssh.audit.trail import NotRecorded, Trail
from arv_ssh.controller.web_services import visits as module
from arv_ssh.controller.web_services.visits import Visitor, Visits
from arv_ssh.errors import NotFound, TooManySessions

ANN = Visitor("zzzzz-tpzed-000000000000000", "zzzzz-dz642-000000000000000", 80, "192.0.2.1")
BOB = Visitor("zzzzz-tpzed-000000000000001", "zzzzz-dz642-000000000000001", 80, "192.0.2.2")


class MemoryTrail(Trail):
    """Keeps records in a list; ``failure`` keeps beginnings from it."""

    on = True

    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[str, dict[str, Any]]] = []
        self.failure: NotRecorded | None = None

    def note(self, name: str, **fields: Any) -> None:
        self.records.append((name, fields))

    async def begin_async(self, name: str, **fields: Any) -> None:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.records.append((name, fields))


def test_one_visit_of_many_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests side by side and one after the other are one visit; it ends when nothing has happened for a while."""
    monkeypatch.setattr(module, "IDLE", 0.05)
    trail = MemoryTrail()

    async def visit() -> None:
        visits = Visits(trail)
        first, second = await asyncio.gather(visits.enter(ANN, "req-1"), visits.enter(ANN, "req-2"))
        first.sent, second.sent = 5, 7
        first.close()
        second.close()
        second.close()
        (await visits.enter(ANN, "req-3")).close()
        while len(trail.records) < 2:
            await asyncio.sleep(0.01)

    asyncio.run(visit())
    (begin, at_first), (end, at_last) = trail.records
    assert (begin, end) == (module.BEGIN, module.END)
    assert at_first["visit_id"] == at_last["visit_id"] and at_first["request_id"] == "req-1"
    assert (at_last["requests"], at_last["bytes_to_client"], at_last["user_uuid"]) == (3, 12, ANN.user_uuid)


def test_what_cannot_be_recorded_does_not_begin() -> None:
    """Where the record must be written first, nothing is served without; the next request tries again."""
    trail = MemoryTrail()
    trail.failure = NotRecorded("the disk is full")

    async def visit() -> None:
        visits = Visits(trail)
        for _ in range(2):
            with pytest.raises(NotRecorded):
                await visits.enter(ANN, "req-1")
        trail.failure = None
        (await visits.enter(ANN, "req-1")).close()
        visits.close()

    asyncio.run(visit())
    assert [name for name, _ in trail.records] == [module.BEGIN, module.END]


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """One container's requests do not take the places of all; what is closed makes room."""
    monkeypatch.setattr(module, "MAX_PER_CONTAINER", 2)
    monkeypatch.setattr(module, "MAX_REQUESTS", 3)

    async def visit() -> None:
        visits = Visits(MemoryTrail())
        first = await visits.enter(ANN, "req-1")
        await visits.enter(ANN, "req-2")
        with pytest.raises(TooManySessions, match=f"requests to ports of container {ANN.container_uuid} under way: 2,"):
            await visits.enter(ANN, "req-3")
        await visits.enter(BOB, "req-4")
        with pytest.raises(TooManySessions, match="this controller has 3"):
            await visits.enter(BOB, "req-5")
        first.close()
        await visits.enter(BOB, "req-6")

    asyncio.run(visit())


def test_limit_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with many containers, or an address at public ports, leaves places to others."""
    monkeypatch.setattr(module, "MAX_PER_USER", 2)

    async def visit(visitors: list[Visitor], other: Visitor) -> None:
        visits = Visits(MemoryTrail())
        first = await visits.enter(visitors[0], "req-1")
        await visits.enter(visitors[1], "req-2")
        with pytest.raises(TooManySessions, match=f"of {visitors[2].who} to ports of all containers under way: 2"):
            await visits.enter(visitors[2], "req-3")
        await visits.enter(other, "req-4")
        first.close()
        await visits.enter(visitors[2], "req-5")

    containers = [f"zzzzz-dz642-00000000000000{number}" for number in range(3)]
    asyncio.run(visit([replace(ANN, container_uuid=uuid) for uuid in containers], BOB))
    unknown = [replace(ANN, container_uuid=uuid, user_uuid="") for uuid in containers]
    asyncio.run(visit(unknown, replace(BOB, user_uuid="")))


def test_limit_of_a_user_at_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who visits a public port leaves places to the container's owner."""
    monkeypatch.setattr(module, "MAX_PER_USER_AND_CONTAINER", 1)
    somebody = replace(ANN, user_uuid="", client="192.0.2.3")

    async def visit() -> None:
        visits = Visits(MemoryTrail())
        await visits.enter(somebody, "req-1")
        with pytest.raises(TooManySessions, match=f"of 192.0.2.3 to ports of container {ANN.container_uuid}"):
            await visits.enter(replace(somebody, port=81), "req-2")
        await visits.enter(ANN, "req-3")

    asyncio.run(visit())


def test_visits_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest visit ends, with its record, when there are too many."""
    monkeypatch.setattr(module, "MAX_VISITS", 1)
    trail = MemoryTrail()

    async def visit() -> None:
        visits = Visits(trail)
        (await visits.enter(ANN, "req-1")).close()
        (await visits.enter(BOB, "req-2")).close()

    asyncio.run(visit())
    assert [(name, fields["client"]) for name, fields in trail.records] == [
        (module.BEGIN, ANN.client), (module.END, ANN.client), (module.BEGIN, BOB.client),
    ]  # fmt: skip


def test_refusals_are_recorded() -> None:
    """A refusal has its status and its sentence."""
    trail = MemoryTrail()
    Visits(trail).refused(ANN, "req-1", NotFound("there is none"))
    ((name, fields),) = trail.records
    assert (name, fields["status"], fields["reason"]) == (module.REFUSED, 404, "there is none")
