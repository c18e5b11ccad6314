"""What is recorded of refused requests, with a clock of the test's own and a real trail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from arv_ssh.audit.trail import Trail
from arv_ssh.errors import Unauthorized
from arv_ssh.net.http_messages import Request
from crunch_sshd.audit.channel_audit import GatewayAudit
from crunch_sshd.audit.refusals import INTERVAL, RECORDS, Refusals

UUID = "zzzzz-dz642-abcdeabcdeabcde"


class Scene:
    """Refusals whose records can be read once it is closed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._audit = GatewayAudit(Trail("on", directory, "gateway"))
        self.now = 1000.0
        self.refusals = Refusals(self._audit, UUID, lambda: self.now)

    def refuse(self, times: int, *, proven: bool = False) -> None:
        for _ in range(times):
            request = Request("GET", "/", "", {}, b"", "192.0.2.7", "req-1")
            self.refusals.record(request, Unauthorized("the proof is wrong"), proven)

    def records(self) -> list[dict[str, Any]]:
        self.refusals.close()
        self._audit.close()
        lines = "".join(file.read_text() for file in sorted(self._directory.glob("*.jsonl"))).splitlines()
        return [record for line in lines if (record := json.loads(line))["event"] == "connection.refused"]


def test_few(tmp_path: Path) -> None:
    """Each of few is recorded with where it came from."""
    scene = Scene(tmp_path)
    scene.refuse(RECORDS)
    records = scene.records()
    assert len(records) == RECORDS
    assert (records[0]["peer"], records[0]["status"], records[0]["reason"]) == (
        "192.0.2.7", 401, "the proof is wrong"
    )  # fmt: skip


def test_many(tmp_path: Path) -> None:
    """Of many the rest is counted, in one record; the next minute has records of its own."""
    scene = Scene(tmp_path)
    scene.refuse(RECORDS + 5000)
    scene.now += INTERVAL
    scene.refuse(1)
    records = scene.records()
    assert len(records) == RECORDS + 2
    assert records[RECORDS]["count"] == 5000 and records[RECORDS]["reason"].startswith("5000 more requests")
    assert records[RECORDS + 1]["peer"] == "192.0.2.7"


def test_the_rest_is_recorded_at_the_end(tmp_path: Path) -> None:
    """What was counted last is not lost when the gateway stops."""
    scene = Scene(tmp_path)
    scene.refuse(RECORDS + 3)
    assert scene.records()[-1]["count"] == 3


def test_a_controllers(tmp_path: Path) -> None:
    """Requests with a controller's proof are all recorded, a flood of others or not."""
    scene = Scene(tmp_path)
    scene.refuse(RECORDS + 100)
    scene.refuse(RECORDS + 1, proven=True)
    assert len(scene.records()) == 2 * RECORDS + 2
