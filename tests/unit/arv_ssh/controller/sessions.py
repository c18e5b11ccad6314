"""A session and an observer for tests of what is told of sessions."""

from __future__ import annotations

from typing import Any

from arv_ssh.controller.shell.sessions import Attempt, LiveConnection, Observer
from arv_ssh.errors import HttpError

CONTAINER = "zzzzz-dz642-abcdeabcdeabcde"
USER = "zzzzz-tpzed-xurymjxw79nv3jz"
TOKEN = "v2/zzzzz-gj3su-000000000000000/secretsecret"


def session(**attributes: Any) -> LiveConnection:
    """Return a session of a user in a container, with ``attributes`` of its own."""
    base: dict[str, Any] = {
        "request_id": "req-01234567890123456789",
        "container_uuid": CONTAINER,
        "user_uuid": USER,
        "login_username": "crunch",
        "peer": "192.0.2.7",
        "started": 1_800_000_000.0,
        "token": TOKEN,
        "gateway_address": "10.0.0.7:34567",
    }
    return LiveConnection(**(base | attributes))


class Transcript(Observer):
    """Writes down what it is told; ``refusal`` is raised at each opening."""

    def __init__(self, refusal: HttpError | None = None) -> None:
        self.lines: list[str] = []
        self.attempts: list[Attempt] = []
        self.closed_sessions: list[LiveConnection] = []
        self.refusal = refusal

    async def opening(self, session: LiveConnection) -> None:
        self.lines.append("opening")
        if self.refusal:
            raise self.refusal

    def refused(self, attempt: Attempt, error: HttpError) -> None:
        self.attempts.append(attempt)
        self.lines.append(f"refused {error.status} {error}")

    def opened(self, session: LiveConnection) -> None:
        self.lines.append("opened")

    def closed(self, session: LiveConnection, reason: str) -> None:
        self.closed_sessions.append(session)
        self.lines.append(f"closed {reason}")
