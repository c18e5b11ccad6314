"""The sessions of this process that lost their connection: what has become of each, as its gateway has it.

Owns when a gateway is asked, and for how long such a session stays in the registry, where it counts, is listed, and
can be ended. It leaves when it goes on here or elsewhere, when its gateway has ended it, or after its time. One
question is about all that wait at a gateway: hundreds of them cost it no more than one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from arv_ssh.controller.gateways import dial
from arv_ssh.controller.gateways.dial import HeldState
from arv_ssh.controller.shell.sessions import CLIENT_LEFT, MOVED, LiveConnection, Observer, Sessions
from arv_ssh.errors import HttpError
from arv_ssh.log import event
from arv_ssh.resume.negotiation import CONNECTED, MOST_ASKED
from arv_ssh.trust import credentials

logger = logging.getLogger(__name__)

PERIOD = 10.0
"""Seconds between two questions to a gateway."""
LEAST = 0.5
"""The same when another session is lost meanwhile; hundreds may be lost at once."""
MARGIN = 30.0
"""Seconds that a session is kept longer than its gateway holds it: the gateway may have noticed the loss later."""


class WaitingSessions(Observer):
    """Watches those of ``sessions`` that are lost."""

    def __init__(self, system_root_token: str, sessions: Sessions) -> None:
        self._token = system_root_token
        self._sessions = sessions
        self._watches: dict[tuple[str, str], _Watch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        sessions.observe(self)

    def lost(self, session: LiveConnection, reason: str) -> None:
        key = session.container_uuid, session.gateway_address
        if key not in self._watches:
            secret = credentials.container_secret(self._token, session.container_uuid)
            gateway = dial.Gateway(session.container_uuid, secret, session.gateway_address, session.dialer)
            self._watches[key] = watch = _Watch(gateway, self._sessions)
            task = asyncio.get_running_loop().create_task(self._run(key, watch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._watches[key].add(session, reason)

    def close(self) -> None:
        """Ask no more."""
        for task in self._tasks:
            task.cancel()

    async def _run(self, key: tuple[str, str], watch: _Watch) -> None:
        try:
            await watch.run()
        finally:
            del self._watches[key]


@dataclass(frozen=True)
class _Lost:
    """A session without a connection, why it lost that, and until when (monotonic seconds) it may come back."""

    session: LiveConnection
    reason: str
    until: float


class _Watch:
    """The lost sessions of one gateway."""

    def __init__(self, gateway: dial.Gateway, sessions: Sessions) -> None:
        self._gateway = gateway
        self._sessions = sessions
        self._lost: dict[str, _Lost] = {}
        self._more = asyncio.Event()

    def add(self, session: LiveConnection, reason: str) -> None:
        """Watch one more."""
        self._lost[session.id] = _Lost(session, reason, time.monotonic() + session.hold + MARGIN)
        self._more.set()

    async def run(self) -> None:
        """Ask until none is left."""
        while lost := self._left():
            self._more.clear()
            for some in _portions(lost):
                await self._look(some)
            if self._left():
                await self._pause()

    def _left(self) -> list[_Lost]:
        self._lost = {name: lost for name, lost in self._lost.items() if not lost.session.closed.is_set()}
        return list(self._lost.values())

    async def _pause(self) -> None:
        await asyncio.sleep(LEAST)
        with suppress(TimeoutError):  # the next turn has come
            async with asyncio.timeout(PERIOD - LEAST):
                await self._more.wait()

    async def _look(self, some: list[_Lost]) -> None:
        states = await self._states([lost.session.id for lost in some])
        for lost in some:
            if reason := _over(lost, states):
                self._sessions.finish(lost.session, reason)

    async def _states(self, names: list[str]) -> dict[str, HeldState] | None:
        """Return the gateway's answer, None without one: it may be cut off, as the sessions are."""
        try:
            return await dial.states(self._gateway, names)
        except HttpError as error:
            event(logger, "the gateway did not say what became of sessions", level=logging.DEBUG,
                  container_uuid=self._gateway.uuid, sessions=len(names), error=str(error))  # fmt: skip
        except Exception:  # one odd answer must not be the last
            logger.exception("the answer of a gateway about its sessions cannot be used")
        return None


def _over(lost: _Lost, states: dict[str, HeldState] | None) -> str:
    """Return why a session has left here, "" if it has not; ``states`` are None when its gateway could not be asked."""
    state = states.get(lost.session.id) if states is not None else None
    if states is not None and state is None:
        return lost.reason
    if state is not None and state.state == CONNECTED and state.attempt > lost.session.attempt:
        return MOVED  # the same attempt would be the lost connection, of which the gateway has not noticed the end
    if time.monotonic() >= lost.until:
        return f"{CLIENT_LEFT}: it did not come back for {lost.session.hold:g} s"
    return ""


def _portions(lost: list[_Lost]) -> Iterator[list[_Lost]]:
    for start in range(0, len(lost), MOST_ASKED):
        yield lost[start : start + MOST_ASKED]
