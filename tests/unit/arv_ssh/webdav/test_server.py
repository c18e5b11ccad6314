"""Requests for a directory: over the HTTP server, as clients send them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h11
import pytest

from arv_ssh.net.http_messages import Answer, Request
from arv_ssh.net.http_server import HttpConnection
from arv_ssh.webdav.server import PIECE, DavServer
from tests.timing import DEADLINE

PREFIX = "/arvados/v1/log/CTR"


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, DEADLINE))


class Client:
    """One client, which asks once for each connection."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.writers: list[asyncio.StreamWriter] = []

    async def ask(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        http = h11.Connection(h11.CLIENT)
        own = [("Host", "h"), ("Content-Length", str(len(body))), ("Connection", "close")]
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        reader, writer = await asyncio.open_connection(*self._address)
        self.writers.append(writer)
        writer.write(http.send(h11.Request(method=method, target=path, headers=own + named)) or b"")
        writer.write((http.send(h11.Data(data=body)) or b"") + (http.send(h11.EndOfMessage()) or b""))
        status, found, got = 0, {}, bytearray()
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
                found = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                got += event.data
        return status, found, bytes(got)


@asynccontextmanager
async def served(directory: Path, prefix: str = "") -> AsyncIterator[Client]:
    dav = DavServer(directory)

    async def handle(request: Request) -> Answer:
        return await dav.handle(request, prefix)

    front = await asyncio.get_running_loop().create_server(
        lambda: HttpConnection(handle, lambda request: True), "127.0.0.1", 0
    )
    client = Client(front.sockets[0].getsockname())
    try:
        yield client
    finally:
        for writer in client.writers:
            writer.close()
        front.close()
        dav.close()


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "stdout.txt").write_text("0123456789")
    (tmp_path / "node.json").write_text("{}")
    (tmp_path / "a b.bin").write_bytes(bytes(range(256)))
    return tmp_path


def test_get(logs: Path) -> None:
    """A file is sent whole, or the part asked for, with what says whether it has changed; HEAD sends no body."""

    async def scenario() -> None:
        async with served(logs) as client:
            status, headers, body = await client.ask("GET", "/stdout.txt")
            assert (status, body, headers["content-type"]) == (200, b"0123456789", "text/plain; charset=utf-8")
            assert headers["accept-ranges"] == "bytes" and headers["x-content-type-options"] == "nosniff"
            status, part, body = await client.ask("GET", "/stdout.txt", Range="bytes=4-6", If_Range=headers["etag"])
            assert (status, body, part["content-range"]) == (206, b"456", "bytes 4-6/10")
            status, none, body = await client.ask("GET", "/stdout.txt", Range="bytes=10-")
            assert (status, body, none["content-range"]) == (416, b"", "bytes */10")
            status, same, body = await client.ask("GET", "/stdout.txt", If_None_Match=headers["etag"])
            assert (status, body) == (304, b"") and "content-length" not in same
            status, head, body = await client.ask("HEAD", "/stdout.txt")
            assert (status, body, head["content-length"]) == (200, b"", "10")
            assert (await client.ask("GET", "/a%20b.bin"))[2] == bytes(range(256))
            assert (await client.ask("GET", "http://h/node.json?x"))[1]["content-type"] == "application/json"

    run(scenario())


def test_a_growing_file(logs: Path) -> None:
    """Each answer has what was there when it was asked for; whoever follows asks from where it ended."""
    with open(logs / "grow.txt", "wb", buffering=0) as file:

        async def scenario() -> None:
            async with served(logs) as client:
                assert (await client.ask("GET", "/grow.txt", Range="bytes=0-"))[0] == 200
                got = b""
                for piece in (b"one", b"two", b"x" * (3 * PIECE)):
                    file.write(piece)
                    status, _, body = await client.ask("GET", "/grow.txt", Range=f"bytes={len(got)}-")
                    assert status == 206 and body == piece
                    got += body
                    assert (await client.ask("GET", "/grow.txt", Range=f"bytes={len(got)}-"))[0] == 416

        run(scenario())


def test_a_file_that_becomes_shorter(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that cannot be kept is cut, and not filled up."""
    monkeypatch.setattr("os.pread", lambda *_: b"")

    async def scenario() -> None:
        async with served(logs) as client:
            with pytest.raises(h11.RemoteProtocolError):
                await client.ask("GET", "/stdout.txt")

    run(scenario())


def test_prefix(logs: Path) -> None:
    """Paths begin with the prefix that a controller names, and so do the hrefs of a listing."""

    async def scenario() -> None:
        async with served(logs, PREFIX) as client:
            assert (await client.ask("GET", PREFIX + "/stdout.txt"))[2] == b"0123456789"
            for path in ("/stdout.txt", PREFIX + "x/stdout.txt", PREFIX + "/../CTR/stdout.txt", PREFIX + "/%2e%2e/x"):
                assert (await client.ask("GET", path))[0] == 404
            status, headers, body = await client.ask("PROPFIND", PREFIX, Depth="1")
            assert status == 207 and headers["content-type"].startswith("application/xml")
            found = [one.findtext("{DAV:}href") for one in ElementTree.fromstring(body)]
            names = ("/", "/a%20b.bin", "/node.json", "/stdout.txt", "/sub/")
            assert found == [PREFIX + name for name in names]
            _, _, body = await client.ask("PROPFIND", PREFIX + "/stdout.txt", Depth="1")
            one = ElementTree.fromstring(body)
            assert [item.text for item in one.iter("{DAV:}href")] == [f"{PREFIX}/stdout.txt"]
            assert [item.text for item in one.iter("{DAV:}getcontentlength")] == ["10"]

    run(scenario())


def test_properties(logs: Path) -> None:
    """A PROPFIND's body says what it asks for; a file's ETag there is that of its GET."""
    asked = b'<propfind xmlns="DAV:"><prop><getetag/><quota/></prop></propfind>'

    async def scenario() -> None:
        async with served(logs) as client:
            etag = (await client.ask("HEAD", "/stdout.txt"))[1]["etag"]
            _, _, body = await client.ask("PROPFIND", "/stdout.txt", asked, Depth="0")
            document = ElementTree.fromstring(body)
            assert [item.text for item in document.iter("{DAV:}getetag")] == [etag]
            statuses = [item.text for item in document.iter("{DAV:}status")]
            assert statuses == ["HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found"]
            _, _, body = await client.ask("PROPFIND", "/", Depth="0")
            document = ElementTree.fromstring(body)
            assert [item.text for item in document.iter("{DAV:}href")] == ["/"]
            assert len(list(document.iter("{DAV:}collection"))) == 1
            assert (await client.ask("PROPFIND", "/", Depth="infinity"))[0] == 403
            assert (await client.ask("PROPFIND", "/"))[0] == 403
            assert (await client.ask("PROPFIND", "/", b"nonsense", Depth="0"))[0] == 400
            assert (await client.ask("PROPFIND", "/", bytes(100_000), Depth="0"))[0] == 431
            assert (await client.ask("PROPFIND", "/none", Depth="0"))[0] == 404

    run(scenario())


def test_methods(logs: Path) -> None:
    """OPTIONS says what is possible; what would change something is not, and says so."""

    async def scenario() -> None:
        async with served(logs) as client:
            status, headers, _ = await client.ask("OPTIONS", "/")
            assert (status, headers["dav"], headers["allow"]) == (200, "1", "OPTIONS, GET, HEAD, PROPFIND")
            for method in ("PUT", "DELETE", "POST", "MKCOL", "MOVE", "COPY", "LOCK", "PROPPATCH", "PATCH", "TRACE"):
                status, headers, body = await client.ask(method, "/stdout.txt", b"x")
                assert (status, headers["allow"]) == (405, "OPTIONS, GET, HEAD, PROPFIND")
                assert b"read-only" in body
            status, headers, body = await client.ask("GET", "/sub")
            assert (status, headers["allow"]) == (405, "OPTIONS, PROPFIND") and b"PROPFIND lists it" in body
        assert (logs / "stdout.txt").read_text() == "0123456789"

    run(scenario())
