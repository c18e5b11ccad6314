"""The records of a controller's sessions."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.audit.trail import NotRecorded, Trail
from arv_ssh.controller.shell.audit import SessionAudit
from arv_ssh.controller.shell.sessions import MOVED, Attempt, Sessions
from arv_ssh.errors import Forbidden
from tests.unit.arv_ssh.controller.sessions import CONTAINER, TOKEN, USER, session
from tests.unit.arv_ssh.streams import Wire


def records(directory: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for path in directory.glob("*.jsonl") for line in path.read_text().splitlines()]
    return [one for one in found if not one["event"].startswith("audit.")]


def test_a_session(tmp_path: Path) -> None:
    """A session has a beginning and an end, with who, where from, whereto, bytes and the reason; never its token."""

    async def play() -> None:
        sessions, audit = Sessions(), SessionAudit(Trail("on", tmp_path, "controller"))
        sessions.observe(audit)
        one = session()
        await sessions.opening(one)
        client, gateway = Wire(), Wire()
        sessions.run(one, (client, b"abc"), (gateway, b"hello"))
        closing = asyncio.ensure_future(audit.close())
        await asyncio.sleep(0)
        client.lose()
        gateway.lose()
        await closing

    asyncio.run(play())
    begin, end = records(tmp_path)
    facts = {
        "request_id": "req-01234567890123456789", "user_uuid": USER, "container_uuid": CONTAINER,
        "login_username": "crunch", "client": "192.0.2.7", "session_id": begin["session_id"],
    }  # fmt: skip
    assert begin["event"] == "session.begin" and begin.items() >= facts.items()
    assert end["event"] == "session.end" and end.items() >= facts.items()
    assert (end["bytes_from_client"], end["bytes_to_client"], end["reason"]) == (3, 5, "client left")
    assert end["started"] == "2027-01-15T08:00:00.000Z"
    assert TOKEN not in str(records(tmp_path))


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_session_that_loses_its_connection(tmp_path: Path, elsewhere: bool) -> None:
    """Loss and return are records of the one session; it ends once, where it was last."""

    async def play() -> None:
        sessions, audit = Sessions(), SessionAudit(Trail("on", tmp_path, "controller"))
        sessions.observe(audit)
        one = session(hold=600.0)
        await sessions.opening(one)
        client, gateway = Wire(), Wire()
        sessions.run(one, (client, b"abc"), (gateway, b"hello"))
        client.lose(ConnectionResetError("reset"))
        gateway.lose()
        if elsewhere:
            sessions.finish(one, MOVED)
        else:
            again = session(id=one.id, hold=600.0, attempt=1, started=one.started + 60)
            await sessions.opening(again)
            client, gateway = Wire(), Wire()
            sessions.run(again, (client, b"de"), (gateway, b""))
            gateway.receive_eof()
            client.lose()
            gateway.lose()
        await audit.close()

    asyncio.run(play())
    found = records(tmp_path)
    after = [] if elsewhere else ["session.resumed", "session.end"]
    assert [one["event"] for one in found] == ["session.begin", "session.lost", *after]
    assert len({one["session_id"] for one in found}) == 1
    assert "reset" in found[1]["error"]
    if not elsewhere:
        assert (found[3]["bytes_from_client"], found[3]["bytes_to_client"]) == (5, 5)
        assert found[3]["started"] == "2027-01-15T08:00:00.000Z"


def test_a_refusal(tmp_path: Path) -> None:
    """A refusal has its status and reason, and what was known of who asked for what."""
    sessions, audit = Sessions(), SessionAudit(Trail("on", tmp_path, "controller"))
    sessions.observe(audit)

    async def play() -> None:
        sessions.refused(Attempt("req-1", "no\udcffuuid", "root", "192.0.2.9"), Forbidden("not yours"))
        await audit.close()

    asyncio.run(play())
    (refusal,) = records(tmp_path)
    assert (refusal["event"], refusal["status"], refusal["reason"]) == ("session.refused", 403, "not yours")
    assert (refusal["container_uuid"], refusal["user_uuid"], refusal["session_id"]) == ("no\\xffuuid", "", None)


def test_required(tmp_path: Path) -> None:
    """Where records are required, a session that cannot be recorded is refused with 503."""
    (tmp_path / "file").touch()

    async def play() -> None:
        sessions, audit = Sessions(), SessionAudit(Trail("required", tmp_path / "file", "controller"))
        sessions.observe(audit)
        with pytest.raises(NotRecorded, match="this cluster records all sessions") as caught:
            await sessions.opening(session())
        assert caught.value.status == 503
        await audit.close()

    asyncio.run(play())
