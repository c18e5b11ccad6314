"""The sessions of this process that lost their connection: what has become of each, as its gateway has it.

Owns when the gateway is asked, and for how long such a session stays in the registry, where it counts, is listed, and
can be ended. It leaves when it goes on here or elsewhere, when its gateway has ended it, or after its time.
"""

from __future__ import annotations

import asyncio
import logging
import time

from arv_ssh.controller.gateways import dial
from arv_ssh.controller.shell import endings
from arv_ssh.controller.shell.sessions import CLIENT_LEFT, MOVED, LiveConnection, Observer, Sessions
from arv_ssh.errors import HttpError
from arv_ssh.log import event
from arv_ssh.resume.negotiation import CONNECTED, GONE

logger = logging.getLogger(__name__)

PERIOD = 10.0
"""Seconds between two questions to the gateway."""
MARGIN = 30.0
"""Seconds that a session is kept longer than its gateway holds it: the gateway may have noticed the loss later."""


class WaitingSessions(Observer):
    """Watches those of ``sessions`` that are lost."""

    def __init__(self, system_root_token: str, sessions: Sessions) -> None:
        self._token = system_root_token
        self._sessions = sessions
        self._tasks: set[asyncio.Task[None]] = set()
        sessions.observe(self)

    def lost(self, session: LiveConnection, reason: str) -> None:
        task = asyncio.get_running_loop().create_task(self._watch(session, reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Ask no more."""
        for task in self._tasks:
            task.cancel()

    async def _watch(self, session: LiveConnection, reason: str) -> None:
        end = time.monotonic() + session.hold + MARGIN
        while not session.closed.is_set():
            state = await self._state(session)
            if state == CONNECTED:
                self._sessions.finish(session, MOVED)
            elif state == GONE:
                self._sessions.finish(session, reason)
            elif time.monotonic() >= end:
                self._sessions.finish(session, f"{CLIENT_LEFT}: it did not come back for {session.hold:g} s")
            else:
                await self._pause(session)

    async def _pause(self, session: LiveConnection) -> None:
        try:
            async with asyncio.timeout(PERIOD):
                await session.closed.wait()
        except TimeoutError:
            pass  # the next turn has come

    async def _state(self, session: LiveConnection) -> str:
        """Return the gateway's answer, "" without one: it may be cut off, as the session is."""
        try:
            return await dial.state(endings.target(session, self._token))
        except HttpError as error:
            event(logger, "the gateway did not say what became of a session", level=logging.DEBUG,
                  session_id=session.id, error=str(error))  # fmt: skip
            return ""
