"""The sessions of one controller process: each from the request for it to its end, and its observers.

Owns the registry of live sessions, each one's relay, the reason why each ended, and the calls of the observers. Knows
nothing of who may enter, nor of how an observer uses the news.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from arv_ssh.controller.gateways.dial import DIRECT, Dialer
from arv_ssh.errors import Forbidden, HttpError
from arv_ssh.log import event
from arv_ssh.net.relay import Relay

logger = logging.getLogger(__name__)

CLIENT_LEFT = "client left"
GATEWAY_LEFT = "gateway left"
CONTAINER_ENDED = "container ended"
REVOKED = "revoked"
KILLED = "killed"
STOPPING = "controller stopping"
MOVED = "went on through another controller"
REASONS = (CLIENT_LEFT, GATEWAY_LEFT, CONTAINER_ENDED, REVOKED, KILLED, STOPPING, MOVED)
"""Why sessions end. A session's reason is one of these, alone or followed by a colon, a space and a sentence."""
MOST_DENIED = 1000
"""Ended sessions that are remembered, lest they come back although their gateway could not be told."""


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

    ``hold`` is how many seconds its gateway holds it after its connection is lost, 0 where it ends with that. Until it
    goes on here it has been waiting since ``waiting_since`` (unix seconds). ``attempt`` is the one by which it came
    here, 0 where it began here.
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
    hold: float = 0.0
    attempt: int = 0
    waiting_since: float | None = None
    earlier: tuple[int, int] = field(default=(0, 0), repr=False)
    first_received: float | None = field(default=None, repr=False)
    let_go: Callable[[], Any] | None = field(default=None, repr=False)
    relay: Relay | None = field(default=None, repr=False)
    checked: float = field(default_factory=time.monotonic, repr=False)
    closed: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    reason: str = ""
    error: str = ""

    @property
    def resumed(self) -> bool:
        """Say whether it began on an earlier connection."""
        return self.attempt > 0

    @property
    def bytes_from_client(self) -> int:
        """Bytes of SSH that the client has sent so far."""
        return self.earlier[0] + (self.relay.a.received if self.relay else 0)

    @property
    def bytes_to_client(self) -> int:
        """Bytes of SSH that the gateway has sent so far."""
        return self.earlier[1] + (self.relay.b.received if self.relay else 0)

    @property
    def first_byte_seconds(self) -> float | None:
        """Return the time from the request to the gateway's first byte, None before that has come."""
        first = self.relay.b.first_received if self.relay else self.first_received
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
        if self.let_go is not None:
            self.let_go()

    def loses_connection(self) -> None:
        """Wait from now on, and keep what was counted."""
        if self.relay is not None:
            self.earlier = self.bytes_from_client, self.bytes_to_client
            self.first_received = self.relay.b.first_received
            self.relay = None
        self.waiting_since = time.time()

    def continues(self, earlier: LiveConnection) -> None:
        """Take over what was known of the same session on its earlier connection, which is cut."""
        earlier.cut()
        self.started = min(self.started, earlier.started)
        self.earlier = earlier.bytes_from_client, earlier.bytes_to_client
        earlier.closed.set()

    def cut(self) -> None:
        """Close both sides at once, even with bytes on their way."""
        if self.relay is not None:
            self.relay.abort()


class Observer:
    """Is called for every session. All calls come in the event loop; only ``opening`` may wait.

    An attempt ends in exactly one of ``refused``, ``opened`` and ``resumed``. A session that was opened here, or came
    here by being resumed, is closed once; between that it may be lost and resumed any number of times.
    """

    async def opening(self, session: LiveConnection) -> None:
        """Note that ``session`` is about to begin: its gateway is proven, and the client has had no answer yet.

        An :class:`HttpError` refuses it, and the client reads the error's sentence.
        """

    def refused(self, attempt: Attempt, error: HttpError) -> None:
        """Note that ``attempt`` failed, whatever the cause and however far it had come."""

    def opened(self, session: LiveConnection) -> None:
        """Note that the client has its 101 and bytes pass."""

    def lost(self, session: LiveConnection, reason: str) -> None:
        """Note that a session has lost its connection, and that its gateway may hold it."""

    def resumed(self, session: LiveConnection, known: bool) -> None:
        """Note that a session goes on here; ``known`` says whether it was here before."""

    def closed(self, session: LiveConnection, reason: str) -> None:
        """Note that both sides are closed; ``reason`` is as described at REASONS, and the byte counts are final."""


class SessionLog(Observer):
    """Writes each session's beginning, end or refusal into the process's log."""

    def refused(self, attempt: Attempt, error: HttpError) -> None:
        event(logger, "session refused", **_fields(attempt), status=error.status, error=str(error))

    def opened(self, session: LiveConnection) -> None:
        event(logger, "session opened", session_id=session.id, **_fields(session))

    def lost(self, session: LiveConnection, reason: str) -> None:
        event(logger, "session lost its connection", session_id=session.id, **_fields(session), reason=reason,
              error=session.error or None)  # fmt: skip

    def resumed(self, session: LiveConnection, known: bool) -> None:
        event(logger, "session resumed", session_id=session.id, **_fields(session))

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
        self._stopping = False
        self._denied: OrderedDict[str, str] = OrderedDict()

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
            if self._live.get(session.id) is not session:
                return  # it goes on by another connection
            session.error = str(error) if error else ""
            reason = session.reason or (GATEWAY_LEFT if relay.first_to_end is relay.b else CLIENT_LEFT)
            # A gateway ends its side in order only when the session is over, whatever failed after that.
            if session.hold and session.reason in ("", STOPPING) and not relay.b.ended:
                self._lose(session, reason)
            else:
                self.finish(session, reason)

        (client_transport, client_early), (gateway_transport, gateway_early) = client, gateway
        earlier = self._live.get(session.id)
        if earlier is not None and earlier.attempt > session.attempt:
            self._refuse_late(session, client_transport, gateway_transport)
            return
        if earlier is not None:
            session.continues(earlier)
        self._live[session.id] = session
        session.relay = Relay(client_transport, early_a=client_early, early_b=gateway_early, done=done)
        if session.resumed:
            self._tell(lambda observer: observer.resumed(session, earlier is not None))
        else:
            self._tell(lambda observer: observer.opened(session))
        session.relay.join(gateway_transport)

    def _refuse_late(self, session: LiveConnection, *transports: asyncio.Transport) -> None:
        """Drop a connection that a later one of the same session has overtaken; the gateway has cut it already."""
        for transport in transports:
            transport.abort()
        attempt = Attempt(session.request_id, session.container_uuid, session.login_username, session.peer,
                          session.started, session.user_uuid, session.id)  # fmt: skip
        self.refused(attempt, Forbidden("a later request to go on with the session came first"))

    def _lose(self, session: LiveConnection, reason: str) -> None:
        """Keep a session in the registry that its gateway may hold; who watches it finishes it in the end."""
        session.loses_connection()
        session.let_go = lambda: self.finish(session, session.reason)
        self._tell(lambda observer: observer.lost(session, reason))
        if self._stopping:
            self.finish(session, STOPPING)

    def finish(self, session: LiveConnection, reason: str) -> None:
        """Take a session that has no connection any more out of the registry, unless another one took its place."""
        if self._live.get(session.id) is session:
            del self._live[session.id]
            session.reason = session.reason or reason
            session.let_go = None
            session.closed.set()
            self._tell(lambda observer: observer.closed(session, session.reason))

    def deny(self, session_id: str, sentence: str) -> None:
        """Have no session with that id resumed here any more, because of ``sentence``."""
        self._denied[session_id] = sentence
        while len(self._denied) > MOST_DENIED:
            self._denied.popitem(last=False)

    def denied(self, session_id: str) -> str:
        """Return why a session may not be resumed, "" if nothing is known against it."""
        return self._denied.get(session_id, "")

    def leave_waiting(self) -> None:
        """Keep no session from now on that has no connection: another controller may have it soon."""
        self._stopping = True
        for session in self:
            if session.waiting_since is not None:
                self.finish(session, STOPPING)

    def close(self) -> None:
        """End all sessions: the controller is stopping."""
        self.leave_waiting()
        for session in self:
            session.end(STOPPING)

    def _tell(self, call: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                call(observer)
            except Exception:  # an observer must not end a session
                logger.exception("an observer of sessions failed")
