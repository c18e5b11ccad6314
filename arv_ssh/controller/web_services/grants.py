"""Rights to ports that were found a moment ago: a page makes hundreds of requests, and each would ask the API often.

Owns how long a right holds unasked, and how many are kept. :mod:`arv_ssh.controller.web_services.authorize` finds
them. For one event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from arv_ssh.controller.api_calls import ApiCalls
from arv_ssh.controller.web_services.authorize import Asked, Grant, authorize
from arv_ssh.controller.web_services.names import Target
from arv_ssh.controller.web_services.ports import Ports

HOLDS = 2.0
"""Seconds: the requests of one page come within that, and who has lost a right keeps it no longer."""
MAX_KEPT = 1000
"""Rights kept at once; each takes some kilobytes."""

Key = tuple[Target, str]


class Grants:
    """The rights that ``calls`` has found. Refusals are not kept. ``clock`` gives seconds."""

    def __init__(self, calls: ApiCalls, clock: Callable[[], float] = time.monotonic) -> None:
        self._calls = calls
        self._ports = Ports()
        self._clock = clock
        self._kept: dict[Key, tuple[float, Grant]] = {}

    async def find(self, asked: Asked) -> Grant:
        """Return the right to use what ``asked`` names, or raise the refusal."""
        until, grant = self._kept.get((asked.target, asked.token), (0.0, None))
        return grant if grant is not None and self._clock() < until else await self.ask(asked)

    async def ask(self, asked: Asked) -> Grant:
        """Do as :meth:`find`, whatever was found before."""
        key = asked.target, asked.token
        self._kept.pop(key, None)
        grant = await self._calls.run(authorize, self._calls, self._ports, asked)
        while len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]  # the oldest
        self._kept[key] = self._clock() + HOLDS, grant
        return grant
