"""The headers by which a session is made resumable, and a new connection continues it. Pure.

Owns their form and what is proven by whom; the secret of a session comes to its ssh-proxy in the answer to the request
that began it, and is never sent again. Knows nothing of who may enter.

Words in one header, which both requests and answers have:

    client      1                                       it would like a session that can be resumed
    controller  1 SESSION                               to the gateway, with the session's id
    gateway     1 SESSION SECRET SECONDS                granted; SECONDS without a connection are borne
    client      1 SESSION ATTEMPT RECEIVED PROOF        it goes on with a session, of which it has RECEIVED bytes
    gateway     1 SESSION RECEIVED PROOF                so does the gateway
"""

from __future__ import annotations

import re

from arv_ssh.errors import BadRequest

HEADER = "X-Arvados-Ssh-Resume"
AUTHORIZATION_HEADER = "X-Arvados-Ssh-Resume-Authorization"
HELD_HEADER = "X-Arvados-Ssh-Held-Authorization"
"""With the question what has become of sessions."""
VERSION = "1"
DEFAULT_RESUME_FOR = 600
"""Seconds that both ends bear without a connection, unless they are told otherwise."""

SHOWN_AFTER = 3.0
"""Seconds of an interruption that nobody needs to be told of."""
CONNECTED, WAITING = "connected", "waiting"
"""A gateway's answers to the question what has become of a session that it has."""
MOST_ASKED = 500
"""Sessions in one such question: as many as a gateway holds without a connection."""

_SESSION = r"ses-[0-9a-f]{20}"
_HEX = r"[0-9a-f]{64}"
_COUNT = r"[0-9]{1,19}"
# As text: ssh-proxy would pay for the compilation of all of them, and needs one.
_GRANT = rf"1 ({_SESSION}) ({_HEX}) ([0-9]{{1,9}})"
_REQUEST = rf"1(?: ({_SESSION})(?: ([1-9][0-9]{{0,8}}) ({_COUNT}) ({_HEX}))?)?"
_ANSWER = rf"1 ({_SESSION}) ({_COUNT}) ({_HEX})"
_CLIENT, _GATEWAY = "client", "gateway"


class Grant:
    """What a gateway grants a session at its beginning: ``secret`` proves later that it is the same ssh-proxy.

    ``seconds`` are those for which the gateway holds the session while it has no connection.
    """

    def __init__(self, session: str, secret: str, seconds: int) -> None:
        self.session = session
        self.secret = secret
        self.seconds = seconds

    def __str__(self) -> str:
        return f"{VERSION} {self.session} {self.secret} {self.seconds}"

    def request(self, attempt: int, received: int) -> str:
        """Return the header with which this session's client goes on; each ``attempt`` has a higher number."""
        return f"{VERSION} {self.session} {attempt} {received} {self._proof(_CLIENT, attempt, received)}"

    def proves(self, asked: Asked) -> bool:
        """Say whether ``asked`` comes from this session's client."""
        from arv_ssh.trust import credentials

        return credentials.matches(asked.proof, self._proof(_CLIENT, asked.attempt, asked.received))

    def answer(self, attempt: int, received: int) -> str:
        """Return the header with which this session's gateway goes on."""
        return f"{VERSION} {self.session} {received} {self._proof(_GATEWAY, attempt, received)}"

    def answered(self, text: str, attempt: int) -> int:
        """Return how many bytes the gateway has that answered ``attempt`` with ``text``; -1 if it proves nothing."""
        from arv_ssh.trust import credentials

        found = re.fullmatch(_ANSWER, text)
        if not found or found.group(1) != self.session:
            return -1
        received = int(found.group(2))
        known = credentials.matches(found.group(3), self._proof(_GATEWAY, attempt, received))
        return received if known else -1

    def _proof(self, side: str, attempt: int, received: int) -> str:
        from arv_ssh.trust import credentials  # its imports would slow the beginning of every session

        return credentials.resume_proof(self.secret, side, self.session, attempt, received)


class Asked:
    """What a request asks for; ``attempt`` is 0 where a session begins, and ``session`` "" from the client then."""

    def __init__(self, session: str, attempt: int, received: int, proof: str) -> None:
        self.session = session
        self.attempt = attempt
        self.received = received
        self.proof = proof

    @property
    def resumes(self) -> bool:
        """Say whether a session that exists is to go on."""
        return self.attempt > 0

    def is_answered_by(self, text: str) -> bool:
        """Say whether ``text`` is a gateway's answer about this session; whether it proves anything, the client sees.

        A gateway that does not know the header answers without one, and has begun another session.
        """
        found = re.fullmatch(_ANSWER, text)
        return found is not None and found.group(1) == self.session


def read_request(text: str) -> Asked | None:
    """Read a request's header; None for none, and for a version that is not known. Raises :class:`BadRequest`."""
    if text.partition(" ")[0] != VERSION:
        return None
    found = re.fullmatch(_REQUEST, text)
    if not found:
        raise BadRequest(f"the header {HEADER} is malformed")
    session, attempt, received, proof = found.groups()
    return Asked(session or "", int(attempt or 0), int(received or 0), proof or "")


def read_grant(text: str) -> Grant | None:
    """Read the header of the answer to a session's beginning; None when it grants nothing."""
    found = re.fullmatch(_GRANT, text)
    return Grant(found.group(1), found.group(2), int(found.group(3))) if found else None


def beginning(session: str) -> str:
    """Return the header with which a controller passes the wish for a resumable session on."""
    return f"{VERSION} {session}"
