"""One request to another controller: a process of this host over its private socket, another host's at its URL."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11
import requests

from arv_ssh.errors import Unavailable

TIMEOUT = 2.0
"""Seconds for the whole exchange: the other process is on this host, and answers from memory."""
READ_SIZE = 64 * 1024


@dataclass(frozen=True)
class PeerRequest:
    """What to ask. ``token`` is a Bearer token, or a proof in its place; a body of {} is none."""

    method: str
    target: str
    token: str = field(repr=False)
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)

    def all_headers(self) -> dict[str, str]:
        """Return the headers that the request has wherever it goes."""
        own = {"Authorization": f"Bearer {self.token}", "Connection": "close"}
        content = {"Content-Type": "application/json"} if self.body else {}
        return own | content | self.headers

    def content(self) -> bytes:
        """Return the body as it is sent."""
        return json.dumps(self.body).encode() if self.body else b""


async def ask(place: str, request: PeerRequest, timeout: float, *, verify: bool | str = True) -> tuple[int, bytes]:
    """Return status and body of the answer of the controller at ``place``: a URL, or the path of a private socket.

    ``timeout`` is in seconds, ``verify`` as requests takes it. Raises OSError (TimeoutError among it) or
    :class:`Unavailable` when there is no whole answer.
    """
    if "://" in place:
        return await asyncio.to_thread(_ask_url, place, request, timeout, verify)
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(place)
            try:
                return await _exchange(reader, writer, request)
            finally:
                writer.close()
    except h11.RemoteProtocolError as error:
        raise Unavailable("it gave no whole answer") from error


async def get(socket_path: Path, target: str, token: str) -> tuple[int, bytes]:
    """Return status and body of a process's answer to GET ``target``, within :data:`TIMEOUT`; raises as :func:`ask`."""
    return await ask(str(socket_path), PeerRequest("GET", target, token), TIMEOUT)


def _ask_url(url: str, request: PeerRequest, timeout: float, verify: bool | str) -> tuple[int, bytes]:
    with requests.Session() as session:
        session.trust_env = False  # neither a ~/.netrc nor a proxy has a part in what controllers say to each other
        try:
            answer = session.request(
                request.method, url.rstrip("/") + request.target, headers=request.all_headers(),
                data=request.content(), timeout=timeout, verify=verify, allow_redirects=False,
            )  # fmt: skip
        except requests.exceptions.RequestException as error:
            raise Unavailable(f"it cannot be reached ({type(error).__name__})") from error
    return answer.status_code, answer.content


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: PeerRequest
) -> tuple[int, bytes]:
    http = h11.Connection(h11.CLIENT)
    content = request.content()
    headers = {"Host": "localhost", "Content-Length": str(len(content))} | request.all_headers()
    message = h11.Request(method=request.method, target=request.target, headers=list(headers.items()))
    for part in (message, h11.Data(data=content), h11.EndOfMessage()):
        writer.write(http.send(part) or b"")
    status, body = 0, b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(READ_SIZE))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            return status, body
