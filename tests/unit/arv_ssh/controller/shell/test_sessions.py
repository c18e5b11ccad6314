"""The registry of sessions: who is told what, and why a session ended."""

from __future__ import annotations

import asyncio
import logging

import pytest

from arv_ssh.controller.shell.sessions import KILLED, STOPPING, Attempt, Observer, Sessions
from arv_ssh.errors import Forbidden, HttpError
from tests.unit.arv_ssh.controller.sessions import CONTAINER, TOKEN, Transcript, session
from tests.unit.arv_ssh.streams import Wire


def running() -> tuple[Sessions, Transcript, Wire, Wire]:
    """Return a registry with one live session, its observer, and the session's client and gateway."""
    sessions, transcript = Sessions(), Transcript()
    sessions.observe(transcript)
    client, gateway = Wire(), Wire()
    sessions.run(session(), (client, b"from client"), (gateway, b"from gateway"))
    return sessions, transcript, client, gateway


def test_a_session_is_live_until_both_sides_are_gone() -> None:
    """A session is listed, found by its id and counts its bytes until it is closed."""
    sessions, transcript, client, gateway = running()
    (live,) = sessions
    assert sessions.get(live.id) is live and len(sessions) == 1
    assert (live.bytes_from_client, live.bytes_to_client) == (11, 12)
    client.lose()
    assert len(sessions) == 1
    gateway.lose()
    assert len(sessions) == 0 and sessions.get(live.id) is None
    assert transcript.lines == ["opened", "closed client left"]
    assert transcript.closed_sessions == [live]


@pytest.mark.parametrize("eof", [True, False])
@pytest.mark.parametrize("first", ["client", "gateway"])
def test_who_left_first(first: str, eof: bool) -> None:
    """The reason names the side whose end or loss came first."""
    _, transcript, client, gateway = running()
    leaving, staying = (client, gateway) if first == "client" else (gateway, client)
    if eof:
        leaving.receive_eof()
        staying.receive_eof()
    leaving.lose()
    staying.lose(OSError("reset"))
    assert transcript.lines[-1] == f"closed {first} left"


@pytest.mark.parametrize("ended", [True, False])
def test_a_gateway_that_had_ended(ended: bool) -> None:
    """A session is over, and not lost, if its gateway ended its side before a connection broke."""
    sessions, transcript = Sessions(), Transcript()
    sessions.observe(transcript)
    client, gateway = Wire(), Wire()
    sessions.run(session(hold=600.0), (client, b""), (gateway, b""))
    if ended:
        gateway.receive_eof()
    gateway.lose(BrokenPipeError("late"))
    client.lose()
    assert transcript.lines[1:] == (["closed gateway left"] if ended else [])
    assert len(sessions) == (0 if ended else 1)  # it waits to be resumed


def test_a_request_that_was_overtaken() -> None:
    """Of two requests to go on with a session the later one has it, though the earlier one was answered last."""
    sessions, transcript, _, _ = running()
    (began,) = sessions
    later, earlier = session(id=began.id, attempt=2), session(id=began.id, attempt=1)
    sessions.run(later, (Wire(), b""), (Wire(), b""))
    client, gateway = Wire(), Wire()
    sessions.run(earlier, (client, b""), (gateway, b""))
    assert list(sessions) == [later]
    assert client.is_closing() and gateway.is_closing()
    assert transcript.lines[-1].startswith("refused 403 a later request")
    assert transcript.attempts[-1].session_id == began.id


def test_our_own_reason_wins() -> None:
    """A session that was ended here has that reason, whichever side is gone first; a second reason changes nothing."""
    sessions, transcript, client, gateway = running()
    (live,) = sessions
    live.end(f"{KILLED}: too many")
    sessions.close()
    assert client.is_closing() and gateway.is_closing()
    gateway.lose()
    client.lose()
    assert transcript.lines[-1] == "closed killed: too many"


def test_closing_ends_every_session() -> None:
    """A controller that stops says so of each session."""
    sessions, transcript, client, gateway = running()
    sessions.close()
    client.lose()
    gateway.lose()
    assert transcript.lines[-1] == f"closed {STOPPING}"


def test_an_observer_may_refuse() -> None:
    """The first refusal at opening is raised, and later observers are not asked."""
    sessions, first, second = Sessions(), Transcript(Forbidden("the audit cannot be written")), Transcript()
    sessions.observe(first)
    sessions.observe(second)
    with pytest.raises(Forbidden, match="audit"):
        asyncio.run(sessions.opening(session()))
    assert (first.lines, second.lines) == (["opening"], [])


def test_an_observer_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """An observer's exception is logged; the session runs, and the other observers are told."""

    class Broken(Observer):
        def refused(self, attempt: Attempt, error: HttpError) -> None:
            raise RuntimeError("broken")

    sessions, transcript = Sessions(), Transcript()
    sessions.observe(Broken())
    sessions.observe(transcript)
    sessions.refused(Attempt("req-1", CONTAINER, "", "192.0.2.7"), Forbidden("no"))
    assert transcript.lines == ["refused 403 no"]
    assert "an observer of sessions failed" in caplog.text


def test_no_token_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Neither a session's repr nor its log lines hold its token."""
    caplog.set_level(logging.DEBUG)
    sessions, _, client, gateway = running()
    (live,) = sessions
    client.lose()
    gateway.lose()
    assert "session closed" in caplog.text
    for text in (repr(live), caplog.text, *(str(record.__dict__) for record in caplog.records)):
        assert TOKEN not in text and "secretsecret" not in text
