"""The services of a gateway that serves the container's logs and ports itself.

Owns how many requests for logs there may be at once. How they are answered is :mod:`arv_ssh.webdav`'s and
:mod:`crunch_sshd.gateway.ports`'s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from arv_ssh.errors import NotFound, Unavailable
from arv_ssh.net.http_messages import Answer, Chunks, Request
from arv_ssh.webdav.server import DavServer
from crunch_sshd.gateway.ports import Ports
from crunch_sshd.ssh.limits import LOG_REQUESTS


class Served:
    """The :class:`crunch_sshd.gateway.services.Services` of one container; ``logs`` None where it keeps none here."""

    def __init__(self, ports: Ports, logs: DavServer | None) -> None:
        self._ports = ports
        self._logs = logs
        self._reading = 0

    async def log(self, request: Request) -> Answer:
        """Answer a WebDAV request for the log directory."""
        if self._logs is None:
            raise NotFound("this gateway has no log directory; whoever runs the container has the logs")
        if self._reading >= LOG_REQUESTS:
            raise Unavailable(f"{LOG_REQUESTS} requests for this container's logs are under way; try again")
        self._reading += 1
        try:
            answer = await self._logs.handle(request, request.headers.get("x-webdav-prefix", ""))
        except BaseException:
            self._read()
            raise
        return replace(answer, chunks=_Told(answer.chunks, self._read))

    async def port(self, request: Request, port: int) -> Answer:
        """Answer an HTTP request for a port of the container."""
        return await self._ports.handle(request, port)

    def close(self) -> None:
        """End what is under way."""
        self._ports.close()
        if self._logs is not None:
            self._logs.close()

    def _read(self) -> None:
        self._reading -= 1


class _Told(AsyncIterator[bytes]):
    """Pieces of a body; ``over`` is called when they are let go of."""

    def __init__(self, chunks: Chunks, over: Callable[[], None]) -> None:
        self._chunks = chunks
        self._pieces = aiter(chunks)
        self._over = over

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        await self._chunks.aclose()
        self._over()
