"""The resumable sessions of a gateway: which there are, which of them wait for a connection, and for how long they may.

Owns who may go on with a session, the bounds of what waits, and each user's share of them. Knows nothing of TLS or SSH.
For one event loop, but for :meth:`HeldSessions.lost`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

from arv_ssh.errors import Forbidden, SessionEnded
from arv_ssh.log import event
from arv_ssh.resume.core import PeerError
from arv_ssh.resume.negotiation import CONNECTED, WAITING, Asked, Grant
from arv_ssh.trust.session_claim import SessionClaim
from crunch_sshd.gateway.connection import Connection, Login
from crunch_sshd.ssh.limits import WAITING_BYTES, WAITING_SESSIONS
from crunch_sshd.ssh.link import Link
from crunch_sshd.ssh.resumable_socket import ResumableSocket

logger = logging.getLogger(__name__)

CHECK_INTERVAL = 1.0
"""Seconds between two looks at how much the waiting sessions keep; their programs may go on writing."""
REMEMBERED = 1000
"""Ended sessions whose reason is remembered, for the user who comes back."""
LOST, RESUMED, GIVEN_UP = "session.lost", "session.resumed", "session.given_up"
"""Events of the audit."""
NOT_HERE = "its gateway does not have this session (any more): the gateway was started again, or the session ended"


class HeldSession:
    """One resumable session: what was granted to it, its stream, and since when it has no connection (monotonic)."""

    def __init__(self, grant: Grant, login: Login, link: Link, lost: Callable[[HeldSession, str], None]) -> None:
        self.grant = grant
        self.login = login
        self.socket = ResumableSocket(link, lambda reason: lost(self, reason))
        self.socket.patience = grant.seconds
        self.attempt = 0
        self.waiting_since: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.connection: Connection | None = None

    @property
    def state(self) -> str:
        """What a controller is told of it."""
        return CONNECTED if self.waiting_since is None else WAITING

    def end(self, reason: str) -> bool:
        """End the session, its client shown ``reason``; say whether there was something to end."""
        if self.connection is not None:
            self.connection.end(reason)
        return self.connection is not None

    def facts(self) -> dict[str, Any]:
        """Return what log and audit say of it."""
        facts = self.connection.facts if self.connection else {"request_id": self.login.request_id}
        return {"session_id": self.grant.session, **facts}


class HeldSessions:
    """The resumable sessions. ``seconds`` is how long one may wait, 0 for not at all.

    ``note`` records an event with its fields; ``memory`` is how much the gateway may use in bytes, 0 for no limit.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: int, note: Callable[..., Any], memory: int = 0
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._note = note
        self._bytes = min(WAITING_BYTES, memory // 4) if memory else WAITING_BYTES
        self._held: dict[str, HeldSession] = {}
        self._over: OrderedDict[str, tuple[str, str]] = OrderedDict()  # whose it was, and the reason
        self._checking: asyncio.TimerHandle | None = None

    def grant(self, session: str) -> Grant | None:
        """Return what a new session is granted; None where sessions end with their connection."""
        if not self._seconds or session in self._held or session in self._over:
            return None
        return Grant(session, secrets.token_hex(32), self._seconds)

    def begin(self, login: Login, link: Link) -> HeldSession:
        """Hold the session that begins on ``link``."""
        assert login.grant is not None  # noqa: S101 - for mypy: the caller has looked
        held = HeldSession(login.grant, login, link, self.lost)
        self._held[login.grant.session] = held
        return held

    def resume(self, asked: Asked, claim: SessionClaim) -> tuple[HeldSession, int]:
        """Return the session that ``asked`` goes on with, without its old link, and how many bytes of it have come.

        Raises :class:`SessionEnded`, or :class:`Forbidden` and then nothing has changed for whoever has the session.
        """
        held = self._held.get(asked.session)
        if held is None:
            user, reason = self._over.get(asked.session, ("", ""))
            raise SessionEnded(reason if user == claim.user_uuid and reason else NOT_HERE)
        if (claim.user_uuid, claim.login_username) != (held.login.user_uuid, held.login.requested):
            raise Forbidden("it is another user's session")
        if not held.grant.proves(asked):
            raise Forbidden("the request does not prove that it comes from the ssh-proxy that began the session")
        if asked.attempt <= held.attempt:
            raise Forbidden("the request to go on with it was used before")
        try:
            held.socket.check(asked.received)
        except PeerError as error:
            raise Forbidden(f"it can not go on from there: {error}") from error
        held.attempt = asked.attempt
        return held, held.socket.release()

    def attach(self, held: HeldSession, link: Link, asked: Asked) -> None:
        """Go on with ``held`` on ``link``, unless a later request came meanwhile."""
        if asked.attempt != held.attempt or self._held.get(held.grant.session) is not held:
            link.cut()
            return
        waited = time.monotonic() - held.waiting_since if held.waiting_since is not None else 0.0
        self._stop_waiting(held)
        held.socket.attach(link, asked.received)
        self._record(RESUMED, "session goes on", held, seconds=round(waited, 3))
        if held.connection is not None:
            held.connection.resumed(waited)

    def lost(self, held: HeldSession, reason: str) -> None:
        """Note that ``held`` has lost its connection. Any thread."""
        try:
            self._loop.call_soon_threadsafe(self._wait, held, reason)
        except RuntimeError:
            pass  # the loop is closed: the gateway stops

    def ended(self, held: HeldSession) -> None:
        """Forget a session whose SSH connection has ended."""
        self._stop_waiting(held)
        if self._held.pop(held.grant.session, None) is held:
            reason = held.connection.reason if held.connection else ""
            self._over[held.grant.session] = held.login.user_uuid, reason or "its SSH connection has ended"
            while len(self._over) > REMEMBERED:
                self._over.popitem(last=False)

    def find(self, session: str) -> HeldSession | None:
        """Return a session by its id."""
        return self._held.get(session)

    @property
    def waiting(self) -> list[HeldSession]:
        """The sessions without a connection, the oldest first."""
        found = [held for held in self._held.values() if held.waiting_since is not None]
        return sorted(found, key=lambda held: held.waiting_since or 0.0)

    def _wait(self, held: HeldSession, reason: str) -> None:
        if self._held.get(held.grant.session) is not held or held.waiting_since is not None or held.socket.linked:
            return
        held.waiting_since = time.monotonic()
        held.timer = self._loop.call_later(self._seconds, self._expire, held)
        self._record(LOST, "session has no connection", held, reason=reason)
        self._check()

    def _expire(self, held: HeldSession) -> None:
        self._give_up(held, f"it had no connection for {self._seconds} s (Sessions.ResumeFor)")

    def _check(self) -> None:
        """End some of those that wait while there are too many, or they keep too much."""
        if self._checking is not None:
            self._checking.cancel()
            self._checking = None
        waiting = self.waiting
        for held, reason in _too_many(waiting, self._bytes):
            self._give_up(held, reason)
        if waiting:
            self._checking = self._loop.call_later(CHECK_INTERVAL, self._check)

    def _give_up(self, held: HeldSession, reason: str) -> None:
        self._record(GIVEN_UP, "session without a connection is ended", held, reason=reason)
        self._stop_waiting(held)
        held.end(reason)

    def _stop_waiting(self, held: HeldSession) -> None:
        held.waiting_since = None
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None

    def _record(self, name: str, message: str, held: HeldSession, **fields: Any) -> None:
        event(logger, message, **held.facts(), **fields)
        self._note(name, **held.facts(), **fields)


def _too_many(waiting: list[HeldSession], most_bytes: int) -> Iterator[tuple[HeldSession, str]]:
    """Yield those that must go, of all that wait, each with the reason.

    ``waiting`` has the oldest first. Who has most of what there is too much of loses his oldest: nobody can push out
    another's.
    """
    kept = {held: held.socket.kept for held in waiting}
    by_user: defaultdict[str, deque[HeldSession]] = defaultdict(deque)
    for held in waiting:
        by_user[held.login.user_uuid].append(held)

    def oldest(weight: Callable[[HeldSession], int]) -> HeldSession:
        user = max(by_user, key=lambda user: sum(map(weight, by_user[user])))
        return by_user[user].popleft()

    count, size = len(waiting), sum(kept.values())
    while count > WAITING_SESSIONS or size > most_bytes:
        if count > WAITING_SESSIONS:
            found = oldest(lambda held: 1)
            reason = f"over {WAITING_SESSIONS} sessions of this gateway have no connection, most of them of this user"
        else:
            found = oldest(kept.__getitem__)
            reason = "the sessions of this gateway without a connection keep too much, most of it for this user"
        yield found, reason
        count, size = count - 1, size - kept[found]
