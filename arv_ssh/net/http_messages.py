"""What an HTTP server is asked and what it answers: requests, answers, upgrades.

Owns what a request and the errors look like to those who handle them, and the bounds on forms. Knows no connection.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol
from urllib.parse import parse_qs

from arv_ssh.errors import BadRequest, HttpError
from arv_ssh.net.request_stream import RequestStream

MAX_FIELDS = 100
"""Fields of a form. Eight megabytes of empty ones would keep the event loop for ten seconds."""


@dataclass(frozen=True)
class Request:
    """One request. Names in ``headers`` are lower-case; ``peer`` is the address it came from."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    """The last value of each; all values are in ``raw_headers``."""
    body: bytes
    peer: str
    request_id: str
    stream: RequestStream | None = None
    """The body as it comes, where the connection streams it; ``body`` is then empty."""
    target: bytes = b""
    """The target as received, for those who pass the request on."""
    raw_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    """The headers as received, in their order, names in lower case."""
    answer_headers: dict[str, str] = field(default_factory=dict)
    """Headers that every answer will carry, an error as well, and a 101; the handler may set them. They replace those
    of the same name."""

    def form(self) -> dict[str, str]:
        """Return the form fields of body and query, the last value of each; fields of the body win."""
        body = self.body.decode("utf-8", "replace") if "json" not in self.headers.get("content-type", "") else ""
        return _fields(self.query) | _fields(body)

    def token(self) -> str:
        """Return the API token of the Authorization header (``Bearer`` or Arvados' older ``OAuth2``), or ""."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() in ("bearer", "oauth2") else ""

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Give the body piece by piece, whether it is streamed or here already; raise when it breaks off."""
        if self.body:
            yield self.body
        while self.stream is not None and (piece := await self.stream.read()):
            yield piece


@dataclass(frozen=True)
class Response:
    """An ordinary answer with a body."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = field(default_factory=list)


class Chunks(Protocol):
    """The pieces of a body, as an async generator or any other iterator gives them."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return the iterator of the pieces."""

    async def aclose(self) -> None:
        """Let go of what gives the pieces: called at their end, and also where none was asked for."""


@dataclass(frozen=True)
class StreamedResponse:
    """An answer whose body comes in pieces, sent in chunks unless ``headers`` have a Content-Length."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    chunks: Chunks


@dataclass(frozen=True)
class Upgrade:
    """A 101: after its head is written, ``start`` is given the paused transport and the bytes that came early."""

    protocol: str
    headers: list[tuple[str, str]]
    start: Callable[[asyncio.Transport, bytes], None]


Answer = Response | StreamedResponse | Upgrade


def _fields(text: str) -> dict[str, str]:
    try:
        found = parse_qs(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise BadRequest(f"the request's form has over {MAX_FIELDS} fields; send only those needed") from error
    return {name: values[-1] for name, values in found.items()}


def error_response(error: HttpError, request_id: str) -> Response:
    """Return the answer that carries ``error`` to a client, in Arvados' shape."""
    body = json.dumps({"errors": [str(error)], "request_id": request_id}).encode() + b"\n"
    return Response(error.status, body, headers=list(error.headers))


def with_headers(answer: Answer, headers: dict[str, str]) -> Answer:
    """Return ``answer`` with ``headers`` last, and no others of their names."""
    if not headers:
        return answer
    names = {name.lower() for name in headers}
    if isinstance(answer, StreamedResponse):
        kept = [pair for pair in answer.headers if pair[0].decode("latin-1").lower() not in names]
        return replace(answer, headers=kept + encoded(headers.items()))
    others = [pair for pair in answer.headers if pair[0].lower() not in names]
    return replace(answer, headers=others + list(headers.items()))


def encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return headers as they are sent."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def origin_form(target: str) -> str:
    """Return path and query of a request's target: Arvados' own clients send the whole URL (RFC 9112 §3.2.2)."""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return target
    remaining = re.sub("^[^/?]*", "", rest)
    return remaining if remaining.startswith("/") else f"/{remaining}"


def peer_address(request: Request) -> str:
    """Return the address of the client that sent ``request``.

    A proxy on a loopback or private address is trusted for the address it appended to X-Forwarded-For, the last one
    there. The addresses before it prove nothing.
    """
    forwarded = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    try:
        peer = ipaddress.ip_address(request.peer)
        if peer.is_loopback or peer.is_private:
            return str(ipaddress.ip_address(forwarded))
    except ValueError:
        pass  # one of the two is not an address, such as the peer of a unix socket
    return request.peer
