"""The gateway's end of a tunnel: a connection to a controller, kept open, through which controllers reach the gateway.

Owns the request for it, the yamux session in it, and reconnecting after a loss, with back-off. Knows nothing of the
traffic: each stream is given a protocol of the gateway's endpoint.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from arv_ssh.errors import HttpError, UsageError
from arv_ssh.log import event
from arv_ssh.net.http_client import address_of
from arv_ssh.net.upgraded import UpgradeRequest, open_upgraded
from arv_ssh.yamux.transport import Accept, YamuxSession

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT = 30.0
"""Seconds for the controller's answer: it computes one HMAC."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the next attempt; the pause doubles with each failure. A controller restarts within seconds."""
STEADY = 60.0
"""Seconds that a tunnel must have stood for the next loss to count as the first."""


@dataclass(frozen=True)
class Uplink:
    """Which controller to open the tunnel to: ``url`` is ``https``, ``context`` checks its certificate."""

    url: str
    context: ssl.SSLContext


def uplink(url: str, context: ssl.SSLContext) -> Uplink:
    """Return the uplink to ``url``; raise :class:`UsageError` unless it is the URL of an HTTPS server."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme == "https" and parts.hostname and (parts.port or 443) and parts.path in ("", "/")
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"--gateway-tunnel {url!r} is not a controller's URL such as https://zzzzz.example.org")
    return Uplink(url, context)


class Tunnel:
    """Keeps a tunnel open from :meth:`start` to :meth:`close`. For one event loop.

    ``accept`` makes the protocol of each connection that comes through. ``moved`` is called with the gateway address
    ("tunnel URL") whenever a tunnel stands.
    """

    def __init__(
        self, uplink: Uplink, container_uuid: str, secret: str, accept: Accept, moved: Callable[[str], Any]
    ) -> None:
        self._uplink = uplink
        self._uuid = container_uuid
        self._secret = secret
        self._accept = accept
        self._moved = moved
        self._sessions: set[YamuxSession] = set()  # the current one, and those whose controllers are leaving
        self._task: asyncio.Task[None] | None = None
        self._gone: Callable[[], Any] | None = None

    def start(self) -> None:
        """Begin to open the tunnel."""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    def close(self, gone: Callable[[], Any]) -> None:
        """Close the tunnel once everything written to it is sent; then call ``gone``."""
        self._gone = gone
        if self._task is not None:
            self._task.cancel()
        for session in list(self._sessions):
            session.close()

    def _ended(self, _task: asyncio.Task[None]) -> None:
        self._task = None
        self._look_whether_gone()

    def _look_whether_gone(self) -> None:
        if self._gone is not None and self._task is None and not self._sessions:
            gone, self._gone = self._gone, None
            gone()

    async def _run(self) -> None:
        pauses = _pauses()
        while True:
            began = time.monotonic()
            try:
                reason = await self._stand()
            except HttpError as error:
                reason = str(error)
            if time.monotonic() - began >= STEADY:
                pauses = _pauses()
            pause = next(pauses)
            event(logger, "no tunnel; trying again", level=logging.WARNING, container_uuid=self._uuid, error=reason,
                  seconds=round(pause, 1))  # fmt: skip
            await asyncio.sleep(pause)

    async def _stand(self) -> str:
        """Open a tunnel; once it is lost or its controller is leaving, return the reason."""
        over: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def note(reason: str) -> None:
            if not over.done():
                over.set_result(reason)

        def closed(session: YamuxSession, error: Exception | None) -> None:
            self._sessions.discard(session)
            note(str(error))
            self._look_whether_gone()

        opened = await open_upgraded(
            address_of(self._uplink.url, self._uplink.context), self._request(), answer_timeout=ANSWER_TIMEOUT
        )
        session = YamuxSession(
            client=True, accept=self._accept, closed=closed, dismissed=lambda: note("its controller is leaving")
        )
        self._sessions.add(session)
        url = opened.headers.get("x-arvados-internal-url") or self._uplink.url
        event(logger, "tunnel is open", container_uuid=self._uuid, controller=url)
        self._moved(f"tunnel {url}")
        session.take(opened.transport, opened.early)
        return await over

    def _request(self) -> UpgradeRequest:
        path = f"/arvados/v1/containers/{self._uuid}/gateway_tunnel"
        host = urlsplit(self._uplink.url).netloc
        return UpgradeRequest(path, host, [], {"auth_secret": self._secret}, "tunnel")


def _pauses() -> Iterator[float]:
    """Yield the seconds to wait before each attempt: doubling, and never the same for all gateways of a cluster."""
    pause = FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.5)  # noqa: S311 - it spreads load and hides nothing
        pause = min(2 * pause, LONGEST_PAUSE)
