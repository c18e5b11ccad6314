"""``GET /arvados/v1/containers/changes``: tells dispatchers when to look, so that they need not ask all the time.

Owns the open streams and their pace. A line says "look": the first comes at once, so that nothing is missed between a
dispatcher's look and its listening. An API of Arvados' own has no such path; dispatchers then poll only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from arv_ssh.api.client import ApiClient
from arv_ssh.errors import Forbidden, MethodNotAllowed, Unauthorized
from arv_ssh.net.http_messages import Request, StreamedResponse
from arv_ssh.trust import access

PATH = "/arvados/v1/containers/changes"
HEARTBEAT = 20.0
"""Seconds after which an empty line shows that the connection still works: less than proxies' patience of a minute."""
PACE = 0.1
"""Seconds between two lines: whoever looks after the first sees all changes of the time between."""


class ChangeStream:
    """The endpoint; ``api`` identifies the caller. Methods belong to the event loop, but :meth:`heard`."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self._listeners: set[asyncio.Event] = set()
        self._stopped = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Be ready for notices."""
        self._loop = asyncio.get_running_loop()

    def heard(self) -> None:
        """Tell the dispatchers. Any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell)

    def stop(self) -> None:
        """End the streams; dispatchers go to another controller."""
        self._stopped = True
        self._tell()

    def _tell(self) -> None:
        for changed in self._listeners:
            changed.set()

    async def handle(self, request: Request) -> StreamedResponse:
        """Answer a dispatcher with a stream of lines."""
        if request.method != "GET":
            raise MethodNotAllowed(f"{PATH} accepts GET only")
        await self._authorize(request)
        # nginx would keep the lines back.
        headers = [(b"Content-Type", b"text/plain"), (b"X-Accel-Buffering", b"no"), (b"Connection", b"close")]
        return StreamedResponse(200, b"OK", headers, self._lines())

    async def _authorize(self, request: Request) -> None:
        if not request.token():
            raise Unauthorized("no API token was sent; a dispatcher sends the SystemRootToken")
        as_caller = self._api.with_token(request.token())
        user = await asyncio.to_thread(as_caller.current_user)
        access.check_active(user)
        access.check_scopes(
            await asyncio.to_thread(as_caller.get, "api_client_authorizations", "current"), "watching all containers"
        )
        if not access.is_administrator(user):
            raise Forbidden(f"only administrators can watch all containers; user {access.user_uuid(user)} is not one")

    async def _lines(self) -> AsyncGenerator[bytes, None]:
        changed = asyncio.Event()
        changed.set()
        self._listeners.add(changed)
        try:
            while not self._stopped:
                try:
                    async with asyncio.timeout(HEARTBEAT):
                        await changed.wait()
                except TimeoutError:
                    yield b"\n"
                    continue
                changed.clear()
                if not self._stopped:
                    yield b"look\n"
                    await asyncio.sleep(PACE)
        finally:
            self._listeners.discard(changed)
