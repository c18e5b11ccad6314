"""The connections of one listening socket that no request keeps, and which of them goes for another.

They have not sent a whole request yet, or wait for another one. Owns their number, which is limited. Must not know what
a connection speaks. For one event loop.

A full house costs a connection of the source that has most of them, so that nobody keeps another address out; of that
source one that has its answer and waits, then one to which nothing could be answered yet, then the oldest. Dropping
new ones at random (sshd's MaxStartups) would let whoever holds all places keep a controller out as long as connections
may be silent.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any


def source(peername: object) -> str:
    """Return whose connection it is: an IPv4 address, or the /64 of an IPv6 address, of which one host has all."""
    host = str(peername[0]) if isinstance(peername, tuple) and peername else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    return str(address.ipv4_mapped or ipaddress.IPv6Network((int(address), 64), strict=False))


def _nothing() -> None:
    """Drop no connection."""


class Unproven:
    """At most ``limit()`` connections, asked with each new one; ``left`` is called whenever one is proven or gone."""

    def __init__(self, limit: Callable[[], int], left: Callable[[], Any] = lambda: None) -> None:
        self._limit = limit
        self._left = left
        self._count = 0
        self._sources: dict[str, dict[Place, None]] = {}  # in the order of their coming, both

    def __len__(self) -> int:
        return self._count

    def _add(self, place: Place) -> None:
        if self._count >= self._limit():
            victim = self._next_to_go()
            drop = victim.drop
            self._discard(victim)
            drop()
        self._sources.setdefault(place.source, {})[place] = None
        self._count += 1

    def _next_to_go(self) -> Place:
        places = max(self._sources.values(), key=len)
        waiting = next((place for place in places if place.idle), None)
        return waiting or next((place for place in places if not place.answered), next(iter(places)))

    def _discard(self, place: Place) -> None:
        places = self._sources.get(place.source, {})
        if place in places:
            del places[place]
            self._count -= 1
            if not places:
                del self._sources[place.source]
            place.drop = _nothing  # a connection that is gone is held by nobody
            self._left()


class Place:
    """One connection's place among the unproven, from :meth:`take` to :meth:`leave`."""

    def __init__(self, unproven: Unproven) -> None:
        self._unproven = unproven
        self.source = ""
        self.drop: Callable[[], Any] = _nothing
        self.idle = False
        """Whether it waits for another request, after an answer."""
        self.answered = False
        """Whether the peer's handshake got as far as an answer."""

    def take(self, peername: object, drop: Callable[[], Any]) -> None:
        """Take the place of a connection from ``peername``; ``drop`` closes it at once, should it have to go."""
        self.source, self.drop = source(peername), drop
        self._unproven._add(self)

    def take_again(self, drop: Callable[[], Any]) -> None:
        """Take it for a connection whose request was answered, and which waits for another."""
        self.leave()  # where it has the place still: two would never both be given back
        self.drop, self.idle = drop, True
        self._unproven._add(self)

    def leave(self) -> None:
        """Note that the connection is proven or gone. May be called twice, or without having taken the place."""
        self.idle = False
        self._unproven._discard(self)
