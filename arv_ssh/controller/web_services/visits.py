"""Visits to web services: how many requests are under way, and what the audit has of them.

Owns the limits, and the records: one of a visit's beginning and one of its end, where a visit is all that one user does
at one port of a container from one address, until nothing has happened for a while. A page makes hundreds of requests.
For one event loop.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from arv_ssh.audit.chain_file import timestamp
from arv_ssh.audit.trail import Trail, text
from arv_ssh.errors import HttpError, TooManySessions

BEGIN = "web_service.begin"
END = "web_service.end"
REFUSED = "web_service.refused"
IDLE = 300.0
"""Seconds without a request under way after which a visit is over."""
MAX_PER_CONTAINER = 256
"""Requests under way at once to one container: 40 browsers, with 6 connections each, that all wait."""
MAX_PER_USER = 512
"""The same of one user to all containers, or of one address to public ports: nobody takes the places of all."""
MAX_PER_USER_AND_CONTAINER = 128
"""The same to one: who visits a public port, as slowly as possible, does not keep the owner from the container."""
MAX_REQUESTS = 2000
"""The same of one controller process; each takes two connections."""
MAX_VISITS = 10_000
"""Visits remembered at once, some 10 MB: a public port has a visit for each address. Beyond it, the oldest one ends."""


@dataclass(frozen=True)
class Visitor:
    """Who visits which port; ``user_uuid`` is "" at a public one, and ``client`` an address."""

    user_uuid: str
    container_uuid: str
    port: int
    client: str

    @property
    def who(self) -> str:
        """The user's UUID, or the address of somebody unknown."""
        return self.user_uuid or self.client


@dataclass(eq=False)
class Visit:
    """One visit and the requests of it that are under way."""

    visitor: Visitor
    request_id: str
    started: float = field(default_factory=time.time)
    id: str = field(default_factory=lambda: "web-" + secrets.token_hex(10))
    begun: asyncio.Future[None] | None = None
    open: int = 0
    requests: int = 0
    bytes_to_client: int = 0
    timer: asyncio.TimerHandle | None = None


class Place(NamedTuple):
    """What is limited: requests of ``who``, "" for all, to ``container``, "" for all."""

    who: str
    container: str

    @property
    def label(self) -> str:
        """Return how a message names the requests."""
        whose = f" of {self.who}" if self.who else ""
        return f"requests{whose} to ports of {f'container {self.container}' if self.container else 'all containers'}"


class Exchange:
    """One request of a visit, from its acceptance to :meth:`close`."""

    def __init__(self, closed: Callable[[int], None]) -> None:
        self._closed: Callable[[int], None] | None = closed
        self._before: Callable[[], object] = lambda: None
        self.sent = 0
        """Bytes that the client has been sent."""

    def on_close(self, call: Callable[[], object]) -> None:
        """Call ``call`` first when the exchange is over."""
        self._before = call

    def close(self) -> None:
        """Note that the exchange is over. May be called twice."""
        closed, self._closed = self._closed, None
        if closed is not None:
            self._before()
            closed(self.sent)


class Visits:
    """The visits of one controller process; their records go to ``trail``."""

    def __init__(self, trail: Trail) -> None:
        self._trail = trail
        self._visits: dict[Visitor, Visit] = {}
        self._under_way = Counter[Place]()
        self._open = 0

    async def enter(self, visitor: Visitor, request_id: str) -> Exchange:
        """Take a place for a request; raise :class:`TooManySessions`, or what keeps the visit from being recorded."""
        self._check(visitor)
        visit = self._visits.get(visitor) or self._begin(visitor, request_id)
        exchange = Exchange(lambda sent: self._left(visit, sent))
        self._count(visit, 1)
        visit.requests += 1
        try:
            if visit.begun is not None:
                await asyncio.shield(visit.begun)
        except BaseException:
            if self._visits.get(visitor) is visit and visit.begun is not None and visit.begun.done():
                del self._visits[visitor]
            exchange.close()
            raise
        return exchange

    def refused(self, visitor: Visitor, request_id: str, error: HttpError) -> None:
        """Note that a request was refused."""
        self._trail.note(
            REFUSED, **_facts(visitor), request_id=request_id, status=error.status, reason=text(str(error))
        )

    def close(self) -> None:
        """Note the end of all visits."""
        for visit in list(self._visits.values()):
            self._end(visit)

    def _check(self, visitor: Visitor) -> None:
        for place, most in _places(visitor).items():
            if self._under_way[place] >= most:
                raise TooManySessions(f"{place.label} under way: {most}, the limit; close some pages, then try again")
        if self._open >= MAX_REQUESTS:
            raise TooManySessions(
                f"this controller has {MAX_REQUESTS} requests to containers under way, its limit; try again later"
            )

    def _begin(self, visitor: Visitor, request_id: str) -> Visit:
        visit = Visit(visitor, request_id)
        if len(self._visits) >= MAX_VISITS:
            self._end(next(iter(self._visits.values())))
        self._visits[visitor] = visit
        if self._trail.on:
            begin = self._trail.begin_async(BEGIN, visit_id=visit.id, **_facts(visitor), request_id=request_id)
            visit.begun = asyncio.ensure_future(begin)
        return visit

    def _count(self, visit: Visit, change: int) -> None:
        visit.open += change
        self._open += change
        for place in _places(visit.visitor):
            self._under_way[place] += change
            if not self._under_way[place]:
                del self._under_way[place]
        if visit.timer is not None:
            visit.timer.cancel()
            visit.timer = None

    def _left(self, visit: Visit, sent: int) -> None:
        visit.bytes_to_client += sent
        self._count(visit, -1)
        if not visit.open and self._visits.get(visit.visitor) is visit:
            visit.timer = asyncio.get_running_loop().call_later(IDLE, self._end, visit)

    def _end(self, visit: Visit) -> None:
        if self._visits.get(visit.visitor) is not visit:
            return
        del self._visits[visit.visitor]
        if visit.timer is not None:
            visit.timer.cancel()
        self._trail.note(
            END,
            visit_id=visit.id,
            **_facts(visit.visitor),
            request_id=visit.request_id,
            started=timestamp(visit.started),
            seconds=round(time.time() - visit.started, 3),
            requests=visit.requests,
            bytes_to_client=visit.bytes_to_client,
        )


def _places(visitor: Visitor) -> dict[Place, int]:
    """Return the places that a request takes, each with how many there are."""
    who, container = visitor.who, visitor.container_uuid
    return {
        Place("", container): MAX_PER_CONTAINER, Place(who, ""): MAX_PER_USER,
        Place(who, container): MAX_PER_USER_AND_CONTAINER,
    }  # fmt: skip


def _facts(visitor: Visitor) -> dict[str, Any]:
    return {
        "user_uuid": visitor.user_uuid,
        "container_uuid": text(visitor.container_uuid),
        "port": visitor.port,
        "client": visitor.client,
    }
