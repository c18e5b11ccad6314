"""The ``session`` text that a controller hands a gateway: who enters which container, as whom, until when.

Pure. The text is unpadded base64url of compact, key-sorted JSON; its integrity comes from
:func:`arv_ssh.trust.credentials.session_auth`, not from here.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import asdict, dataclass

from arv_ssh.errors import BadRequest

LIFETIME = 60
"""Seconds that a session text stays valid; it covers the dial of the gateway and the SSH handshake's start."""

LONGEST_REASON = 400
"""Characters of the reason for ending a session early; OpenSSH shows no more."""


@dataclass(frozen=True)
class SessionClaim:
    """One session's facts. ``exp`` is in unix seconds; ``login_username`` "" is the image's default user."""

    container_uuid: str
    exp: int
    login_username: str
    request_id: str
    user_uuid: str


def encode(session: SessionClaim) -> str:
    """Return the wire text of ``session``."""
    text = json.dumps(asdict(session), sort_keys=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def decode(text: str) -> SessionClaim:
    """Read the wire text; raise :class:`BadRequest` when it is not a session."""
    try:
        fields = json.loads(base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)))
        session = SessionClaim(**fields)
    except (ValueError, TypeError, RecursionError, binascii.Error) as error:
        raise BadRequest("the session header is not a session of this protocol") from error
    strings = (session.container_uuid, session.login_username, session.request_id, session.user_uuid)
    if not all(isinstance(value, str) for value in strings) or type(session.exp) is not int:
        raise BadRequest("the session header has a field of the wrong type")
    return session
