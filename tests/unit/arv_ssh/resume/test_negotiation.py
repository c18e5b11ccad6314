"""The headers of resumable sessions: what is read as what, and who can prove what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arv_ssh.errors import BadRequest
from arv_ssh.resume.negotiation import Grant, beginning, read_grant, read_request

SESSION = "ses-" + "0" * 20
GRANT = Grant(SESSION, "a" * 64, 600)


def test_a_session_begins() -> None:
    """The client's wish names no session, the controller's does, and the gateway's answer has the secret."""
    wish, passed_on = read_request("1"), read_request(beginning(SESSION))
    assert wish is not None and (wish.session, wish.resumes) == ("", False)
    assert passed_on is not None and (passed_on.session, passed_on.resumes) == (SESSION, False)
    grant = read_grant(str(GRANT))
    assert grant is not None and vars(grant) == vars(GRANT)


def test_a_session_goes_on() -> None:
    """Both ends prove the secret, the attempt and how much they have."""
    asked = read_request(GRANT.request(3, 4711))
    assert asked is not None and asked.resumes and (asked.attempt, asked.received) == (3, 4711)
    assert GRANT.proves(asked)
    assert GRANT.answered(GRANT.answer(3, 99), 3) == 99


def test_nothing_is_proven_by_another() -> None:
    """Another secret, another number, another session and the other side's proof are all worth nothing."""
    other = Grant(SESSION, "b" * 64, 600)
    asked = read_request(other.request(3, 4711))
    assert asked is not None and not GRANT.proves(asked)
    for text in (GRANT.request(4, 4711), GRANT.request(3, 4712)):
        asked = read_request(text)
        assert asked is not None
        asked.attempt, asked.received = 3, 4711
        assert not GRANT.proves(asked)
    assert GRANT.answered(GRANT.answer(3, 99), 4) == -1
    assert GRANT.answered(other.answer(3, 99), 3) == -1
    assert GRANT.answered(f"1 {SESSION} 99 {GRANT.request(3, 99).rpartition(' ')[2]}", 3) == -1
    assert GRANT.answered(Grant("ses-" + "1" * 20, "a" * 64, 1).answer(3, 99), 3) == -1


@pytest.mark.parametrize("text", ["", "2", "2 whatever", "10"])
def test_unknown_versions(text: str) -> None:
    """What a later version may say is no mistake: the session is an ordinary one."""
    assert read_request(text) is None and read_grant(text) is None


@pytest.mark.parametrize("text", ["1 ", "1 ses-x", f"1 {SESSION} 0 1 " + "a" * 64, f"1 {SESSION} 1 -1 " + "a" * 64])
def test_malformed(text: str) -> None:
    """A header of our version must be right."""
    with pytest.raises(BadRequest):
        read_request(text)


@given(st.text(max_size=120))
def test_any_text(text: str) -> None:
    """No text does more than be refused."""
    assert read_grant(text) is None and GRANT.answered(text, 1) == -1
    try:
        read_request("1 " + text)
    except BadRequest:
        pass


def test_who_answers_about_a_session() -> None:
    """Only a gateway's answer about the session that was asked for is one; none, a grant, another session's are not."""
    grant, other = Grant("ses-" + "1" * 20, "a" * 64, 600), Grant("ses-" + "2" * 20, "a" * 64, 600)
    asked = read_request(grant.request(1, 7))
    assert asked is not None and asked.is_answered_by(grant.answer(1, 3))
    for text in ("", "1", str(grant), grant.request(1, 7), other.answer(1, 3), f"{grant.answer(1, 3)}\n"):
        assert not asked.is_answered_by(text)
