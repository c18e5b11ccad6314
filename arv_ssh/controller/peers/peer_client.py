"""One request to another controller: a process of this host over its private socket, another host's at its URL."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from arv_ssh.net.http_client import Address, address_of, connect
from arv_ssh.net.tls import client_context

TIMEOUT = 2.0
"""Seconds for the whole exchange: the other process is on this host, and answers from memory."""
MAX_ANSWER = 16 * 1024 * 1024
"""Bytes of an answer: the sessions of a host, some 400 bytes each, or the metrics of a process."""


@dataclass(frozen=True)
class PeerRequest:
    """The request. ``token`` is a Bearer token, or a proof in its place; a body of {} is not sent."""

    method: str
    target: str
    token: str = field(repr=False)
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)

    def all_headers(self) -> list[tuple[str, str]]:
        """Return the headers that the request has at any destination."""
        own = {"Authorization": f"Bearer {self.token}", "Connection": "close"}
        content = {"Content-Type": "application/json"} if self.body else {}
        return list((own | content | self.headers).items())

    def content(self) -> bytes:
        """Return the body as it is sent."""
        return json.dumps(self.body).encode() if self.body else b""


async def ask(controller: str, request: PeerRequest, timeout: float, *, verify: bool | str = True) -> tuple[int, bytes]:
    """Return status and body of the answer of ``controller``: a URL, or the path of a private socket.

    ``timeout`` is in seconds. ``verify`` False trusts any certificate, a text is a file of CAs. Raises TimeoutError, or
    an :class:`HttpError` when the answer does not come whole.
    """
    async with asyncio.timeout(timeout):
        connection = await connect(_address(controller, verify))
        try:
            content = request.content()
            headers = [("Host", urlsplit(controller).netloc or "localhost"), ("Content-Length", str(len(content)))]
            path = urlsplit(controller).path.rstrip("/") if "://" in controller else ""
            connection.send(request.method, path + request.target, headers + request.all_headers(), content)
            head = await connection.head()
            return head.status, await connection.body(MAX_ANSWER)
        finally:
            connection.abort()


async def get(socket_path: Path, target: str, token: str) -> tuple[int, bytes]:
    """Return status and body of a process's answer to GET ``target``, within :data:`TIMEOUT`; raises as :func:`ask`."""
    return await ask(str(socket_path), PeerRequest("GET", target, token), TIMEOUT)


def _address(controller: str, verify: bool | str) -> Address:
    if "://" not in controller:
        return Address("it", path=Path(controller))
    ca_file = verify if isinstance(verify, str) else None
    return address_of(controller, client_context(insecure=not verify, ca_file=ca_file), name="it")
