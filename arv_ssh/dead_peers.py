"""Peers that are gone without a word: a cut cable, a node that crashed, a way through a NAT that was forgotten.

Owns the one place where a TCP connection is told to find that out, within :data:`DEAD_AFTER` seconds. Two cases: while
nothing is to be sent, the kernel asks (keepalive, tcp(7)); while something is, the kernel would go on for a quarter of
an hour, and the watch here looks whether anything was acknowledged.

TCP_USER_TIMEOUT, which is meant for the second, is no help: since Linux 5.11 it also ends connections whose peer is
well and only stopped reading, and ``ssh CONTAINER 'cat big' | less`` may stop for hours.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

DEAD_AFTER = 60.0
"""Seconds after which a peer that does not answer is given up: more than any of the sums below."""
KEEPALIVE_IDLE = 20
KEEPALIVE_INTERVAL = 10
KEEPALIVE_PROBES = 3
"""Seconds without traffic until the first probe, between two probes, and probes that may go unanswered."""
LOOK = 5.0
"""Seconds between two looks at what is not acknowledged."""
PATIENCE = 40.0
"""Seconds for which nothing that was sent may be acknowledged."""
LONGEST_RETRY = 10_000
"""Milliseconds between two tries to send, or to probe a peer that stopped reading; else up to 2 min."""

TCP_RTO_MAX_MS = 44
"""The option's number (include/uapi/linux/tcp.h); Linux 6.15 and later know it."""
_TCP_INFO = struct.Struct("=8B13I")
"""The beginning of struct tcp_info: up to tcpi_last_ack_recv."""


class DeadPeerWatch:
    """Looks after the connection of ``transport``, and calls ``dead`` once when its peer is. For one event loop.

    A transport that is no TCP socket's, such as a stream inside another connection, needs no watch and gets none.
    """

    def __init__(self, transport: asyncio.BaseTransport, dead: Callable[[], None]) -> None:
        self._socket: Any = transport.get_extra_info("socket")
        self._dead = dead
        self._waiting_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        if self._socket is not None and self._socket.family in (socket.AF_INET, socket.AF_INET6):
            _keep_alive(self._socket)
            self._look_later()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _look(self) -> None:
        if self._is_dead(time.monotonic()):
            self._dead()
        else:
            self._look_later()

    def _is_dead(self, now: float) -> bool:
        info = _TCP_INFO.unpack(self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
        probes, unacknowledged, last_ack = info[3], info[12], now - info[20] / 1000
        if not probes and not unacknowledged:
            self._waiting_since = None
        elif self._waiting_since is None or last_ack > self._waiting_since:
            self._waiting_since = now
        return self._waiting_since is not None and now - self._waiting_since >= PATIENCE


def _keep_alive(sock: Any) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, LONGEST_RETRY)
    except OSError:
        pass  # an older kernel: who stopped reading and died then is found dead some minutes later
