"""The sessions of one controller process: each from the request for it to its end, and its observers.

Owns the registry of live sessions, each one's relay, the reason why each ended, and the calls of the observers. Knows
nothing of who may enter, nor of how an observer uses the news.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from arv_ssh.controller.gateways.dial import DIRECT, Dialer
from arv_ssh.errors import HttpError
from arv_ssh.log import event
from arv_ssh.net.relay import Relay

logger = logging.getLogger(__name__)

CLIENT_LEFT = "client left"
GATEWAY_LEFT = "gateway left"
CONTAINER_ENDED = "container ended"
REVOKED = "revoked"
KILLED = "killed"
STOPPING = "controller stopping"
REASONS = (CLIENT_LEFT, GATEWAY_LEFT, CONTAINER_ENDED, REVOKED, KILLED, STOPPING)
"""Why sessions end. A session's reason is one of these, alone or followed by a colon, a space and a sentence."""


@dataclass
class Attempt:
    """The facts known so far about a request for a session; ``container_uuid`` and ``login_username`` are as asked for.

    ``user_uuid`` is "" until the API has said whose token it is, ``session_id`` until the session has one.
    """

    request_id: str
    container_uuid: str
    login_username: str
    peer: str
    started: float = field(default_factory=time.time)
    user_uuid: str = ""
    session_id: str = ""


@dataclass(eq=False)
class LiveConnection:
    """One session of a user in a container. ``started`` is in unix seconds, ``peer`` the client's address.

    ``checked`` is when (monotonic seconds) the API last said that it may go on; ``closed`` is set when both sides are
    closed.
    """

    request_id: str
    container_uuid: str
    user_uuid: str
    login_username: str
    peer: str
    started: float
    token: str = field(repr=False)
    gateway_address: str = ""
    dialer: Dialer = field(default=DIRECT, repr=False)
    id: str = field(default_factory=lambda: "ses-" + secrets.token_hex(10))
    relay: Relay | None = field(default=None, repr=False)
    checked: float = field(default_factory=time.monotonic, repr=False)
    closed: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    reason: str = ""
    error: str = ""

    @property
    def bytes_from_client(self) -> int:
        """Bytes of SSH that the client has sent so far."""
        return self.relay.a.received if self.relay else 0

    @property
    def bytes_to_client(self) -> int:
        """Bytes of SSH that the gateway has sent so far."""
        return self.relay.b.received if self.relay else 0

    @property
    def first_byte_seconds(self) -> float | None:
        """Return the time from the request to the gateway's first byte, None before that has come."""
        first = self.relay.b.first_received if self.relay else None
        return None if first is None else first - self.started

    @property
    def seconds(self) -> float:
        """Return the time since the session was asked for."""
        return time.time() - self.started

    def end(self, reason: str) -> None:
        """Close the session, for one of REASONS; bytes already read are still written."""
        self.reason = self.reason or reason
        if self.relay is not None:
            self.relay.close()

    def cut(self) -> None:
        """Close both sides at once, even with bytes on their way."""
        if self.relay is not None:
            self.relay.abort()


class Observer:
    """Is called for every session. All calls come in the event loop; only ``opening`` may wait.

    An attempt ends in exactly one of ``refused`` and ``opened``; each ``opened`` is followed by one ``closed``.
    """

    async def opening(self, session: LiveConnection) -> None:
        """Note that ``session`` is about to begin: its gateway is proven, and the client has had no answer yet.

        An :class:`HttpError` refuses it, and the client reads the error's sentence.
        """

    def refused(self, attempt: Attempt, error: HttpError) -> None:
        """Note that ``attempt`` failed, whatever the cause and however far it had come."""

    def opened(self, session: LiveConnection) -> None:
        """Note that the client has its 101 and bytes pass."""

    def closed(self, session: LiveConnection, reason: str) -> None:
        """Note that both sides are closed; ``reason`` is as described at REASONS, and the byte counts are final."""


class SessionLog(Observer):
    """Writes each session's beginning, end or refusal into the process's log."""

    def refused(self, attempt: Attempt, error: HttpError) -> None:
        event(logger, "session refused", **_fields(attempt), status=error.status, error=str(error))

    def opened(self, session: LiveConnection) -> None:
        event(logger, "session opened", session_id=session.id, **_fields(session))

    def closed(self, session: LiveConnection, reason: str) -> None:
        event(
            logger,
            "session closed",
            session_id=session.id,
            **_fields(session),
            seconds=round(session.seconds, 3),
            bytes_from_client=session.bytes_from_client,
            bytes_to_client=session.bytes_to_client,
            reason=reason,
            error=session.error or None,
        )


def _fields(which: Attempt | LiveConnection) -> dict[str, Any]:
    names = ("request_id", "container_uuid", "user_uuid", "login_username", "peer")
    return {name: getattr(which, name) for name in names}


class Sessions:
    """The live sessions of this process, by their ids. For one event loop."""

    def __init__(self) -> None:
        self._observers: list[Observer] = [SessionLog()]
        self._live: dict[str, LiveConnection] = {}

    def observe(self, observer: Observer) -> None:
        """Notify ``observer`` of all sessions from now on."""
        self._observers.append(observer)

    def __iter__(self) -> Iterator[LiveConnection]:
        """Iterate over the sessions live now."""
        return iter(list(self._live.values()))

    def __len__(self) -> int:
        return len(self._live)

    def get(self, session_id: str) -> LiveConnection | None:
        """Return the live session with that id."""
        return self._live.get(session_id)

    def refused(self, attempt: Attempt, error: HttpError) -> None:
        """Notify the observers that ``attempt`` was refused."""
        self._tell(lambda observer: observer.refused(attempt, error))

    async def opening(self, session: LiveConnection) -> None:
        """Ask the observers whether ``session`` may begin; raises the first one's refusal."""
        for observer in self._observers:
            await observer.opening(session)

    def run(
        self, session: LiveConnection, client: tuple[asyncio.Transport, bytes], gateway: tuple[asyncio.Transport, bytes]
    ) -> None:
        """Relay between two open, paused transports, each with the bytes read from it before, until the end."""

        def done(relay: Relay, error: Exception | None) -> None:
            del self._live[session.id]
            session.error = str(error) if error else ""
            session.reason = session.reason or (GATEWAY_LEFT if relay.first_to_end is relay.b else CLIENT_LEFT)
            session.closed.set()
            self._tell(lambda observer: observer.closed(session, session.reason))

        (client_transport, client_early), (gateway_transport, gateway_early) = client, gateway
        self._live[session.id] = session
        session.relay = Relay(client_transport, early_a=client_early, early_b=gateway_early, done=done)
        self._tell(lambda observer: observer.opened(session))
        session.relay.join(gateway_transport)

    def close(self) -> None:
        """End all sessions: the controller is stopping."""
        for session in self:
            session.end(STOPPING)

    def _tell(self, call: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                call(observer)
            except Exception:  # an observer must not end a session
                logger.exception("an observer of sessions failed")
