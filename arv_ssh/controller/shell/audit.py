"""The audit of a controller's sessions: who entered which container, from where and until when, who was refused why.

Owns the events and their fields. The :class:`Trail` decides whether and when they are written.
"""

from __future__ import annotations

import asyncio
from typing import Any

from arv_ssh.audit.chain_file import timestamp
from arv_ssh.audit.trail import Trail, text
from arv_ssh.controller.shell.sessions import MOVED, STOPPING, Attempt, LiveConnection, Observer
from arv_ssh.errors import HttpError

BEGIN = "session.begin"
END = "session.end"
REFUSED = "session.refused"
LOST = "session.lost"
RESUMED = "session.resumed"
LAST_ENDS = 2.0
"""Seconds for closed sessions to end, before their records are closed too."""


class SessionAudit(Observer):
    """Writes each session's beginning and end, and each refusal. A session cannot begin without a required record."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail
        self._open: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def opening(self, session: LiveConnection) -> None:
        await self._trail.begin_async(RESUMED if session.resumed else BEGIN, session_id=session.id, **_facts(session))

    def refused(self, attempt: Attempt, error: HttpError) -> None:
        self._trail.note(
            REFUSED,
            session_id=attempt.session_id or None,  # with one, a beginning may have been written
            **_facts(attempt),
            started=timestamp(attempt.started),
            status=error.status,
            reason=text(str(error)),
        )

    def opened(self, session: LiveConnection) -> None:
        self._open.add(session.id)
        self._idle.clear()

    def resumed(self, session: LiveConnection, known: bool) -> None:
        self.opened(session)

    def lost(self, session: LiveConnection, reason: str) -> None:
        self._trail.note(
            LOST, session_id=session.id, **_facts(session), reason=reason, error=session.error or None
        )

    def closed(self, session: LiveConnection, reason: str) -> None:
        if session.waiting_since is None or reason not in (STOPPING, MOVED):  # which are no ends
            self._end(session, reason)
        self._open.discard(session.id)
        if not self._open:
            self._idle.set()

    def _end(self, session: LiveConnection, reason: str) -> None:
        self._trail.note(
            END,
            session_id=session.id,
            **_facts(session),
            started=timestamp(session.started),
            seconds=round(session.seconds, 3),
            bytes_from_client=session.bytes_from_client,
            bytes_to_client=session.bytes_to_client,
            reason=reason,
            error=session.error or None,
        )

    async def close(self) -> None:
        """Write waiting records; sessions that are closing have a moment to end."""
        try:
            await asyncio.wait_for(self._idle.wait(), LAST_ENDS)
        except TimeoutError:
            pass  # their connections hang: the record shows their beginnings and no ends
        await asyncio.to_thread(self._trail.close)


def _facts(which: Attempt | LiveConnection) -> dict[str, Any]:
    return {
        "request_id": which.request_id,
        "user_uuid": which.user_uuid,
        "container_uuid": text(which.container_uuid),
        "login_username": text(which.login_username),
        "client": which.peer,
    }
