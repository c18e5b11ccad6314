"""Peers that vanish without a word: a cut cable, a crashed node, a NAT entry that expired.

Owns the settings and the watch by which a TCP connection detects this, within :data:`DEAD_AFTER` seconds. Two cases:
while there is nothing to send, the kernel asks (keepalive, tcp(7)); while there is, the kernel would keep trying for a
quarter of an hour, so the watch here checks whether anything was acknowledged.

TCP_USER_TIMEOUT is meant for the second case but does not help: since Linux 5.11 it also ends connections whose peer
is well and has only stopped reading, and ``ssh CONTAINER 'cat big' | less`` may stop for hours.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any
from weakref import WeakKeyDictionary

DEAD_AFTER = 60.0
"""Seconds after which an unresponsive peer is given up: more than any of the sums below."""
KEEPALIVE_IDLE = 20
KEEPALIVE_INTERVAL = 10
KEEPALIVE_PROBES = 3
"""Seconds without traffic until the first probe, between two probes, and probes that may go unanswered."""
LOOK = 5.0
"""Seconds between two looks at unacknowledged data."""
SHARES = 10
"""Parts of a round: checking thousands of connections in one go would hold up everything else."""
PATIENCE = 40.0
"""Seconds that sent data may go unacknowledged."""
SILENCE = f"the peer has acknowledged nothing for {PATIENCE:g} s"
"""The error message for a dead peer."""
LONGEST_RETRY = 10_000
"""Milliseconds between two tries to send, or to probe a peer that stopped reading; otherwise up to 2 min."""

TCP_RTO_MAX_MS = 44
"""The option's number (include/uapi/linux/tcp.h); Linux 6.15 and later know it."""
_TCP_INFO = struct.Struct("=8B13I")
"""The beginning of struct tcp_info: up to tcpi_last_ack_recv."""


class DeadPeerWatch:
    """Watches the connection of ``sock``, and calls ``dead`` once when the peer is dead. For one event loop.

    A socket other than TCP, or None for a stream inside another connection, needs no watch.
    """

    def __init__(self, sock: Any, dead: Callable[[], None]) -> None:
        self._socket = sock
        self._dead = dead
        self._waiting_since: float | None = None
        self._share: set[DeadPeerWatch] | None = None
        if self._socket is not None and self._socket.family in (socket.AF_INET, socket.AF_INET6):
            _keep_alive(self._socket)
            self._share = _rounds_of(asyncio.get_running_loop()).join(self)

    def close(self) -> None:
        """Stop looking."""
        if self._share is not None:
            self._share.discard(self)
        self._dead = _nothing  # whom it belonged to holds this, and is not held by it

    def look(self, now: float) -> None:
        """Look once, at the monotonic time ``now``; the last time when the peer is dead, or the socket is closed."""
        try:
            dead = self._is_dead(now)
        except OSError:  # closed by the thread that it was given to
            self.close()
            return
        if dead:
            tell = self._dead
            self.close()
            tell()

    def _is_dead(self, now: float) -> bool:
        info = _TCP_INFO.unpack(self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
        probes, unacknowledged, last_ack = info[3], info[12], now - info[20] / 1000
        if not probes and not unacknowledged:
            self._waiting_since = None
        elif self._waiting_since is None or last_ack > self._waiting_since:
            self._waiting_since = now
        return self._waiting_since is not None and now - self._waiting_since >= PATIENCE


def _nothing() -> None:
    """Be told of no dead peer."""


class _Rounds:
    """Checks all connections of an event loop with one timer, not one each: idle connections must cost nothing.

    At each tick one share of the connections is looked at. The timer runs while there are any.
    """

    def __init__(self) -> None:
        self._shares: list[set[DeadPeerWatch]] = [set() for _ in range(SHARES)]
        self._next_to_join = cycle(self._shares)
        self._next_to_look = cycle(self._shares)
        self._running = False

    def join(self, watch: DeadPeerWatch) -> set[DeadPeerWatch]:
        """Have ``watch`` look every :data:`LOOK` seconds, until it leaves the share that is returned."""
        share = next(self._next_to_join)
        share.add(watch)
        if not self._running:
            self._running = True
            self._tick_later()
        return share

    def _tick_later(self) -> None:
        asyncio.get_running_loop().call_later(LOOK / SHARES, self._tick)

    def _tick(self) -> None:
        self._running = any(self._shares)
        if self._running:
            self._tick_later()  # first: even if a look raises, the others go on
        now = time.monotonic()
        for watch in tuple(next(self._next_to_look)):
            watch.look(now)


_rounds: WeakKeyDictionary[asyncio.AbstractEventLoop, _Rounds] = WeakKeyDictionary()


def _rounds_of(loop: asyncio.AbstractEventLoop) -> _Rounds:
    return _rounds.setdefault(loop, _Rounds())


def _keep_alive(sock: Any) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, LONGEST_RETRY)
    except OSError:
        pass  # an older kernel: a peer that stopped reading and then died is found dead some minutes later
