"""Answers to WebDAV requests for one directory: OPTIONS, GET, HEAD and PROPFIND; all else is not allowed.

Owns the methods, their headers, and the reading of a file while its bytes are sent. A file that grows meanwhile is sent
up to the size it had. Knows nothing of who may ask.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from io import FileIO
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from arv_ssh.errors import BadGateway, BadRequest, Forbidden, HttpError, MethodNotAllowed, NotFound, RequestTooLarge
from arv_ssh.net.http_messages import Request, StreamedResponse, encoded, origin_form
from arv_ssh.webdav import conditions, multistatus
from arv_ssh.webdav.conditions import Facts
from arv_ssh.webdav.directory import Directory, Entry

PIECE = 256 * 1024
"""Bytes read from a file at a time."""
THREADS = 4
"""Reads under way at once. They are the disk's to delay, and have threads of their own: logins need the others."""
BODY_TIMEOUT = 20.0
"""Seconds for the whole body of a PROPFIND to arrive."""
TYPES = {b".txt": "text/plain; charset=utf-8", b".json": "application/json"}
BYTES = "application/octet-stream"

T = TypeVar("T")
Call = Callable[[Callable[[], bytes]], Awaitable[bytes]]
"""Does in a thread what may block."""


class DavServer:
    """Serves the files below ``directory``. For one event loop, until :meth:`close`."""

    METHODS = "OPTIONS, GET, HEAD, PROPFIND"

    def __init__(self, directory: Path) -> None:
        self._directory = Directory(directory)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="webdav")

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def handle(self, request: Request, prefix: str = "") -> StreamedResponse:
        """Answer one request; ``prefix`` is the directory's own path, as clients see it."""
        if request.method == "OPTIONS":
            headers = [("DAV", "1"), ("Allow", self.METHODS), ("MS-Author-Via", "DAV"), ("Content-Length", "0")]
            return _answer(200, headers, _Nothing())
        names = _names(request, prefix)
        if request.method in ("GET", "HEAD"):
            return await self._file(request, names)
        if request.method == "PROPFIND":
            return await self._properties(request, names, prefix)
        raise _not_allowed(f"the logs are read-only: {request.method[:20]} is not for them", self.METHODS)

    async def _file(self, request: Request, names: Sequence[bytes]) -> StreamedResponse:
        file, entry = await self._call(partial(self._directory.open_file, names))
        if file is None:
            raise _not_allowed("this is a directory; PROPFIND lists it", "OPTIONS, PROPFIND")
        facts = Facts(entry.size, entry.modified)
        part = conditions.part(request.headers, facts)
        headers = [
            ("Content-Type", _type(entry)), ("Last-Modified", facts.last_modified), ("ETag", facts.etag),
            ("Accept-Ranges", "bytes"), ("Cache-Control", "no-cache"), ("X-Content-Type-Options", "nosniff"),
        ]  # fmt: skip
        if part.status == 206:
            headers.append(("Content-Range", f"bytes {part.start}-{part.start + part.length - 1}/{facts.size}"))
        elif part.status == 416:
            headers.append(("Content-Range", f"bytes */{facts.size}"))
        if part.status != 304:
            headers.append(("Content-Length", str(part.length)))
        length = 0 if request.method == "HEAD" else part.length
        return _answer(part.status, headers, _Pieces(self._call, file, part.start, length))

    async def _properties(self, request: Request, names: Sequence[bytes], prefix: str) -> StreamedResponse:
        depth = request.headers.get("depth", "infinity").strip()
        if depth not in ("0", "1"):
            raise Forbidden("PROPFIND is answered for one directory at a time; send the header Depth: 0 or Depth: 1")
        asked = multistatus.read(await _body(request))
        first, *others = await self._call(partial(self._directory.list, names, deep=depth == "1"))
        path = b"/".join([prefix.rstrip("/").encode(), *names])
        entries = [(path, first), *((path + b"/" + entry.name, entry) for entry in others)]
        body = b"".join(multistatus.response(asked, _href(path, entry), _properties(entry)) for path, entry in entries)
        body = multistatus.HEAD + body + multistatus.TAIL
        headers = [("Content-Type", "application/xml; charset=utf-8"), ("Content-Length", str(len(body)))]
        return _answer(207, headers, _Nothing(body))

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


class _Nothing(AsyncIterator[bytes]):
    """The pieces of a body that is there already, if any."""

    def __init__(self, body: bytes = b"") -> None:
        self._body = body

    async def __anext__(self) -> bytes:
        if not self._body:
            raise StopAsyncIteration
        body, self._body = self._body, b""
        return body

    async def aclose(self) -> None:
        self._body = b""


class _Pieces(AsyncIterator[bytes]):
    """The pieces of ``file`` from ``start``, ``length`` bytes; owns the file."""

    def __init__(self, call: Call, file: FileIO, start: int, length: int) -> None:
        self._call = call
        self._file = file
        self._position = start
        self._left = length

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        try:
            piece = await self._call(partial(os.pread, self._file.fileno(), min(PIECE, self._left), self._position))
        except OSError as error:
            raise BadGateway(f"the file cannot be read ({error.strerror})") from error
        if not piece:
            raise BadGateway("the file has become shorter")
        self._position += len(piece)
        self._left -= len(piece)
        return piece

    async def aclose(self) -> None:
        self._file.close()


def _answer(status: int, headers: list[tuple[str, str]], chunks: _Nothing | _Pieces) -> StreamedResponse:
    return StreamedResponse(status, HTTPStatus(status).phrase.encode(), encoded(headers), chunks)


def _not_allowed(sentence: str, allowed: str) -> HttpError:
    error = MethodNotAllowed(sentence)
    error.headers = [("Allow", allowed)]
    return error


def _names(request: Request, prefix: str) -> list[bytes]:
    """Return the names of a request's path, one below the other, after ``prefix``."""
    path = unquote_to_bytes(origin_form(request.target.decode("latin-1")).partition("?")[0])
    above = prefix.rstrip("/").encode()
    if not path.startswith(above) or path[len(above) : len(above) + 1] not in (b"", b"/"):
        raise NotFound("the path is not below that of the logs")
    return [name for name in path[len(above) :].split(b"/") if name]


async def _body(request: Request) -> bytes:
    found = b""
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for piece in request.pieces():
                found += piece
                if len(found) > multistatus.MAX_BODY:
                    raise RequestTooLarge(f"the body of the PROPFIND is over {multistatus.MAX_BODY} bytes; send less")
    except TimeoutError as error:
        raise BadRequest("the body of the PROPFIND did not come in time") from error
    return found


def _type(entry: Entry) -> str:
    return TYPES.get(os.path.splitext(entry.name)[1], BYTES)


def _href(path: bytes, entry: Entry) -> bytes:
    return path + b"/" if entry.is_directory else path


def _properties(entry: Entry) -> dict[str, str]:
    """Return the properties of one entry, as XML."""
    facts = Facts(entry.size, entry.modified)
    common = {"displayname": multistatus.text(entry.name), "getlastmodified": facts.last_modified}
    if entry.is_directory:
        return {"resourcetype": "<D:collection/>", **common}
    return {
        "resourcetype": "", **common, "getcontentlength": str(entry.size), "getcontenttype": _type(entry),
        "getetag": facts.etag,
    }  # fmt: skip
