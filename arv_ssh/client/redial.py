"""The way back to a session that lost its connection: when it is dialled again, for how long, and what the user sees.

Owns the pauses, the end of patience and its sentence. Knows nothing of the session's bytes, but how many have come.
"""

from __future__ import annotations

import select
import time

from arv_ssh.client.controller import AcceptedUpgrade, Controller, SessionOver
from arv_ssh.client.transport import Abandoned
from arv_ssh.errors import ArvSshError, BadGateway, ConfigError, HttpError, UsageError
from arv_ssh.resume.negotiation import DEFAULT_RESUME_FOR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from arv_ssh.client.relay import Cut
    from arv_ssh.resume.negotiation import Grant

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds between two attempts: each pause doubles, and is spread by chance, as all clients of a controller lose it at
the same moment. They grow on over connections that are accepted, but bring nothing and are soon lost again."""
ATTEMPT_TIMEOUT = 5.0
"""Seconds to connect, and for the answer: an attempt that hangs in a dead network would miss the moment it is back."""
ANSWER_TIMEOUT = 15.0


class Redial:
    """Dials again for one session in ``container``; ``patience`` is in seconds.

    ``interrupted`` and ``restored`` are called at the beginning and the end of each interruption, the second one with
    its seconds, or with None when it is hopeless.
    """

    def __init__(
        self,
        controller: Controller,
        container: str,
        user: str,
        grant: Grant,
        patience: float = DEFAULT_RESUME_FOR,
        interrupted: Callable[[], None] = lambda: None,
        restored: Callable[[float | None], None] = lambda seconds: None,
    ) -> None:
        self._controller = controller
        self._container, self._user = container, user
        self._grant = grant
        self._patience = patience
        self._interrupted, self._restored = interrupted, restored
        self._attempt = 0
        self._pause = 0.0
        self._done = -1  # bytes that both ends had when the last connection was made
        self._made = 0.0

    def resume(self, received: int, cut: Cut) -> tuple[AcceptedUpgrade, int]:
        """Return a new connection, and how many bytes the gateway has; the session here has ``received``.

        Raise :class:`Abandoned` when what the controller watches hangs up, and another :class:`ArvSshError` with a
        sentence when it is hopeless. ``cut`` is why the old connection ended.
        """
        self._interrupted()
        began = time.monotonic()
        took = None
        try:
            session, have = self._dial_until(began + self._patience, received, cut)
            self._made = time.monotonic()
            took = self._made - began
            self._pause = 0.0 if received + have > self._done else _longer(self._pause)
            self._done = received + have
            return session, have
        finally:
            self._restored(took)

    def leave(self, received: int) -> AcceptedUpgrade | None:
        """Return a connection over which to say goodbye, None when there is none at once; the user has left."""
        self._controller.watch = None  # which has hung up, and would end this
        try:
            return self._dial(received)[0]
        except ArvSshError:
            return None

    def _dial_until(self, deadline: float, received: int, cut: Cut) -> tuple[AcceptedUpgrade, int]:
        if time.monotonic() - self._made >= LONGEST_PAUSE:
            self._pause = 0.0
        pause, last = self._pause or FIRST_PAUSE, str(cut)
        if self._pause:
            self._sleep(_spread(pause))
        while True:
            try:
                return self._dial(received)
            except (Abandoned, UsageError, ConfigError):
                raise
            except SessionOver as error:
                raise BadGateway(f"the session in container {self._container} can not go on: {error}") from error
            except ArvSshError as error:
                last = str(error)
            spread = _spread(pause)
            if time.monotonic() + spread > deadline:
                raise BadGateway(
                    f"the session in container {self._container} had no connection for {self._patience:g} s "
                    f"(--resume-for): {last}"
                )
            self._sleep(spread)
            pause = _longer(pause)

    def _dial(self, received: int) -> tuple[AcceptedUpgrade, int]:
        self._attempt += 1
        asked = self._grant.request(self._attempt, received)
        session = self._controller.resume_session(
            self._container, self._user, asked, ATTEMPT_TIMEOUT, ANSWER_TIMEOUT
        )
        have = self._grant.answered(session.resume, self._attempt)
        if have < 0:
            session.connection.close()
            raise HttpError("what answered does not prove that it has the session")
        return session, have

    def _sleep(self, seconds: float) -> None:
        if self._controller.watch is None:
            time.sleep(seconds)
            return
        poll = select.poll()
        poll.register(self._controller.watch, 0)  # errors and hang-ups are reported unasked
        if poll.poll(seconds * 1000):
            raise Abandoned("the program that started ssh-proxy has exited")


def _spread(pause: float) -> float:
    import random  # 3 ms, which no beginning of a session should cost

    return pause * random.uniform(0.5, 1.5)  # noqa: S311 - it spreads load and hides nothing


def _longer(pause: float) -> float:
    return min(2 * pause, LONGEST_PAUSE) or FIRST_PAUSE
