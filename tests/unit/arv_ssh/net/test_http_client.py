"""The HTTP client: its exchange fed in pieces, its connection over a wire that writes down what is done to it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.errors import BadGateway, Forbidden, GatewayTimeout, HttpError, Unavailable
from arv_ssh.net import http_client, upgrade
from arv_ssh.net.http_client import (
    MAX_HEAD,
    Address,
    ClientConnection,
    Event,
    Exchange,
    Head,
    Signal,
    address_of,
    connect,
)
from arv_ssh.net.tls import client_context
from crunch_sshd.gateway import certificate
from tests.timing import DEADLINE
from tests.unit.arv_ssh.streams import Wire

HOST = [(b"host", b"h")]
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: ssh\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, DEADLINE))


def asked(protocol: str = "", method: str = "GET") -> Exchange:
    """Return an exchange whose request is on its way."""
    exchange = Exchange("the server", protocol)
    exchange.request(method, "/", HOST + ([(b"upgrade", protocol.encode())] if protocol else []))
    exchange.finish()
    return exchange


def events(exchange: Exchange, data: bytes, size: int, *, ended: bool = False) -> list[Event]:
    """Feed ``data`` in pieces of ``size`` bytes, and return what the exchange reports."""
    found: list[Event] = []
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    for piece in pieces + [b""] * ended:
        exchange.receive(piece)
        while (event := exchange.next_event()) not in (Signal.NEED_DATA, Signal.END):
            found.append(event)
        if event is Signal.END:
            found.append(event)
            break
    return found


def body(found: list[Event]) -> bytes:
    return b"".join(event for event in found if isinstance(event, bytes))


def head(found: list[Event]) -> Head:
    return next(event for event in found if isinstance(event, Head))


class TestExchange:
    """HTTP without I/O."""

    @pytest.mark.parametrize("size", [1, 10, 10_000])
    @pytest.mark.parametrize(
        "answer",
        [
            OK,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
        ],
        ids=["length", "chunks", "informational"],
    )
    def test_answer_in_pieces(self, answer: bytes, size: int) -> None:
        """An answer is the same however it arrives."""
        found = events(asked(), answer, size)
        final = [event for event in found if isinstance(event, Head)][-1]
        assert (final.status, final.reason, body(found), found[-1]) == (200, b"OK", b"hello", Signal.END)

    @pytest.mark.parametrize("size", [1, 10, 10_000])
    def test_answer_until_the_end_of_the_stream(self, size: int) -> None:
        """A body without a length ends with the stream."""
        found = events(asked(), b"HTTP/1.0 200 OK\r\n\r\nhello", size, ended=True)
        assert (body(found), found[-1]) == (b"hello", Signal.END)

    @pytest.mark.parametrize("size", [1, 10, 10_000])
    def test_upgrade_and_what_follows(self, size: int) -> None:
        """What follows a 101's head is the new protocol's, though it looks like HTTP."""
        exchange = asked("ssh")
        found = events(exchange, SWITCHED, size)
        assert head(found).status == 101 and head(found).fields()["upgrade"] == "ssh"
        exchange.receive(b"HTTP/1.1 200 \x00\xff")
        assert exchange.trailing == b"HTTP/1.1 200 \x00\xff"

    def test_repeated_headers(self) -> None:
        """Repeated headers are one field."""
        found = events(asked(), b"HTTP/1.1 200 OK\r\nX-A: 1\r\nX-a: 2\r\nContent-Length: 0\r\n\r\n", 7)
        assert head(found).fields()["x-a"] == "1, 2"

    def test_head_request(self) -> None:
        """The answer to HEAD has a length and no body."""
        found = events(asked(method="HEAD"), b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", 10)
        assert (body(found), found[-1]) == (b"", Signal.END)

    @pytest.mark.parametrize("size", [1, 10, 100_000])
    @pytest.mark.parametrize(
        ("answer", "sentence"),
        [
            (b"SSH-2.0-x\r\n", "does not answer in HTTP; check its host and port"),
            (b"H\r\n", "does not answer in HTTP"),
            (b"", "closed the connection before it answered"),
            (b"HTTP/1.1 101 Switching Proto", "closed the connection before it answered"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "in the middle of its answer"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", "in the middle of its answer"),
            (b"HTTP/1.1 2000 OK\r\n\r\n", "answered in invalid HTTP"),
            (b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", "answered in invalid HTTP"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "answered in invalid HTTP"),
            (b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD + b"x", f"a header block of more than {MAX_HEAD} bytes"),
        ],
        ids=["ssh", "three bytes", "nothing", "half a head", "half a body", "half chunks", "status", "header", "chunk",
             "head too long"],
    )  # fmt: skip
    def test_what_is_no_answer(self, answer: bytes, sentence: str, size: int) -> None:
        """What is not an answer is the server's fault, in a sentence that names the server."""
        if size == 1 and len(answer) > 1000:
            size = 100  # byte by byte takes seconds and shows nothing new
        with pytest.raises(BadGateway, match=f"^the server .*{sentence}"):
            events(asked(), answer, size, ended=True)

    @pytest.mark.parametrize("protocol", ["tunnel", ""])
    def test_upgrade_to_another_protocol(self, protocol: str) -> None:
        """A 101 that was not asked for is an error."""
        with pytest.raises(BadGateway):
            events(asked(protocol), SWITCHED, 10)

    @pytest.mark.parametrize("value", [b"a\r\nX-Injected: 1", b"a\nb", b"a\0b"])
    def test_header_with_a_line_break(self, value: bytes) -> None:
        """A header cannot smuggle another one in, and is not shown: it may be a token."""
        with pytest.raises(ValueError, match="^a request with an invalid header$"):
            Exchange("the server").request("GET", "/", [*HOST, (b"authorization", value)])

    def test_request_in_pieces(self) -> None:
        """A request's body is sent as its head says, by length or in chunks."""
        by_length = Exchange("the server")
        sent = by_length.request("PUT", "/x?y", [*HOST, (b"content-length", b"3")])
        sent += by_length.data(b"ab") + by_length.data(b"c") + by_length.finish()
        assert sent.startswith(b"PUT /x?y HTTP/1.1\r\n") and sent.endswith(b"\r\n\r\nabc")
        chunked = Exchange("the server")
        chunked.request("PUT", "/", [*HOST, (b"transfer-encoding", b"chunked")])
        assert chunked.data(b"abc") + chunked.finish() == b"3\r\nabc\r\n0\r\n\r\n"


def opened(protocol: str = "", stall: float | None = None) -> tuple[ClientConnection, Wire]:
    """Return a connection on a wire, with its request sent."""
    connection, wire = ClientConnection("the server", protocol, stall), Wire()
    wire.set_protocol(connection)
    wire.reading = True
    connection.connection_made(wire)
    connection.send("GET", "/", [("Host", "h"), *([("Upgrade", protocol)] if protocol else [])])
    return connection, wire


class TestConnection:
    """The exchange on a transport."""

    def test_reading_stops_until_more_is_wanted(self) -> None:
        """Each piece stops the reading, and so does a 101: what follows it waits for its owner."""

        async def scenario() -> None:
            connection, wire = opened("ssh")
            waiting = asyncio.create_task(connection.head())
            wire.receive(SWITCHED[:30])
            assert not wire.reading
            while not wire.reading:
                await asyncio.sleep(0)
            wire.receive(SWITCHED[30:] + b"SSH-2.0-x\r\n")
            assert (await waiting).status == 101 and not wire.reading
            assert connection.take_over() == (wire, b"SSH-2.0-x\r\n")

        run(scenario())

    @pytest.mark.parametrize("limit", [4, 5])
    def test_limit_of_a_body(self, limit: int) -> None:
        """A body over its limit is refused, one at it is not."""

        async def scenario() -> None:
            connection, wire = opened()
            wire.receive(OK)
            assert (await connection.head()).status == 200
            if limit < 5:
                with pytest.raises(BadGateway, match="the server answered with more than 4 bytes"):
                    await connection.body(limit)
            else:
                assert await connection.body(limit) == b"hello"

        run(scenario())

    @pytest.mark.parametrize(
        ("answer", "sentence"),
        [
            (b'Content-Length: 21\r\n\r\n{"errors": ["not x"]}', "^not x$"),
            (b"Content-Length: 2\r\n\r\nno", "^the server answered 403 Forbidden and gave no reason$"),
            (b'Content-Length: 99\r\n\r\n{"errors": ["not x"]}', "gave no reason"),
            (b"\r\n" + b" " * upgrade.BODY_LIMIT + b'{"errors": ["not x"]}', "gave no reason"),
        ],
        ids=["sentence", "no JSON", "cut", "too long"],
    )
    def test_refusal(self, answer: bytes, sentence: str) -> None:
        """An error has the server's own sentence where all of it came, and its status always."""

        async def scenario() -> None:
            connection, wire = opened("ssh")
            wire.receive(b"HTTP/1.1 403 Forbidden\r\n" + answer)
            wire.receive_eof()
            refusal = await connection.refusal(await connection.head())
            assert type(refusal) is Forbidden
            with pytest.raises(Forbidden, match=sentence):
                raise refusal

        run(scenario())

    def test_continue(self) -> None:
        """Each 100 is reported, no other informational answer is, and the final head is returned."""
        heard: list[str] = []

        async def scenario() -> None:
            connection, wire = opened()
            wire.receive(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK)
            assert (await connection.head(lambda: heard.append("100"))).status == 200

        run(scenario())
        assert heard == ["100"]

    @pytest.mark.parametrize("when", ["before the head", "in the body"])
    @pytest.mark.parametrize(
        ("error", "sentence"),
        [(None, "closed the connection$"), (ConnectionResetError("reset"), r"closed the connection \(reset\)$")],
    )
    def test_connection_lost(self, when: str, error: Exception | None, sentence: str) -> None:
        """A lost connection ends the wait for what has not come; what has come is still given."""

        async def scenario() -> None:
            connection, wire = opened()
            if when == "in the body":
                wire.receive(OK[:-2])
            wire.lose(error)
            with pytest.raises(BadGateway, match=f"^the server {sentence}"):
                await connection.head()
                pieces = connection.pieces()
                assert await anext(pieces) == b"hel"
                await anext(pieces)

        run(scenario())

    def test_failure_of_the_body_while_the_answer_is_awaited(self) -> None:
        """Whoever feeds the request can end the wait for its answer."""

        async def scenario() -> None:
            connection, _ = opened()
            waiting = asyncio.create_task(connection.head())
            await asyncio.sleep(0)
            connection.fail(Forbidden("no more"))
            with pytest.raises(Forbidden, match="no more"):
                await waiting

        run(scenario())

    def test_body_waits_for_the_connection(self) -> None:
        """A piece of the request's body is done when the connection takes more; a lost one takes none."""

        async def scenario() -> None:
            connection, wire = ClientConnection("the server"), Wire()
            wire.set_protocol(connection)
            connection.connection_made(wire)
            connection.begin("PUT", "/", [*HOST, (b"content-length", b"6")])
            connection.pause_writing()
            writing = asyncio.create_task(connection.write(b"abc"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert wire.written.endswith(b"abc") and not writing.done()
            connection.resume_writing()
            await writing
            connection.pause_writing()
            writing = asyncio.create_task(connection.write(b"def"))
            await asyncio.sleep(0)
            wire.lose()
            with pytest.raises(ConnectionResetError, match="the server has closed the connection"):
                await writing

        run(scenario())

    def test_stall(self) -> None:
        """An exchange without a byte in either direction is given up."""

        async def scenario() -> None:
            connection, _ = opened(stall=0.01)
            with pytest.raises(GatewayTimeout, match=r"the server has sent nothing for 0\.01 s"):
                await connection.head()

        run(scenario())

    def test_bytes_that_are_sent_are_no_stall(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A request that takes long to send does not use up the time for its answer."""

        async def scenario() -> None:
            now = 0.0
            connection, wire = ClientConnection("the server", stall=10.0), Wire()
            monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
            wire.set_protocol(connection)
            connection.connection_made(wire)
            connection.begin("PUT", "/", [*HOST, (b"content-length", b"9")])
            waiting = asyncio.create_task(connection.head())
            for _ in range(3):
                await asyncio.sleep(0)
                now += 8.0
                await connection.write(b"abc")
            for _ in range(9):
                await asyncio.sleep(0)
            assert not waiting.done()
            now += 11.0
            with pytest.raises(GatewayTimeout):
                await waiting

        run(scenario())


class TestConnect:
    """The way to a server."""

    def failure(self, address: Address, kind: type[HttpError]) -> str:
        async def scenario() -> None:
            with pytest.raises(kind) as caught:
                await connect(address)
            told.append(str(caught.value))

        told: list[str] = []
        run(scenario())
        return told[0]

    def test_nobody_listens(self, tmp_path: Path) -> None:
        """A port or a socket without a server is 503, with the system's reason."""
        assert "the server cannot be reached (" in self.failure(Address("the server", "127.0.0.1", 1), Unavailable)
        missing = Address("the server", path=tmp_path / "none.sock")
        assert self.failure(missing, Unavailable) == "the server cannot be reached (No such file or directory)"

    def serve(self, address: Callable[[int], Address], context: ssl.SSLContext | None) -> tuple[int, bytes]:
        """Return status and body of an answer that a real server gives over that kind of connection."""
        found: list[tuple[int, bytes]] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(OK)
            except (OSError, asyncio.IncompleteReadError):
                pass  # the client did not trust us
            writer.close()

        async def scenario() -> None:
            async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
                connection = await connect(address(server.sockets[0].getsockname()[1]))
                connection.send("GET", "/", [("Host", "h")])
                status = (await connection.head()).status
                found.append((status, await connection.body(100)))
                connection.abort()

        run(scenario())
        return found[0]

    def test_plain(self) -> None:
        """A URL without TLS is asked without it, whatever the context."""
        trusting = client_context(insecure=True)
        answer = self.serve(lambda port: address_of(f"http://127.0.0.1:{port}/x", trusting), None)
        assert answer == (200, b"hello")

    def test_tls(self) -> None:
        """A server is trusted as the context says."""
        server, _ = certificate.fresh()

        def secure(context: ssl.SSLContext) -> Callable[[int], Address]:
            return lambda port: address_of(f"https://127.0.0.1:{port}", context, "the server")

        assert self.serve(secure(client_context(insecure=True)), server) == (200, b"hello")
        with pytest.raises(BadGateway, match=r"^the server cannot be trusted \(.*self.signed"):
            self.serve(secure(client_context()), server)

    def test_silent_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that accepts and says nothing of TLS is given up."""
        monkeypatch.setattr(http_client, "CONNECT_TIMEOUT", 0.05)

        async def scenario() -> None:
            gone = asyncio.Event()

            async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read()
                writer.close()
                gone.set()

            async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                with pytest.raises(GatewayTimeout, match="did not answer in time"):
                    await connect(Address("the server", "127.0.0.1", port, client_context(insecure=True)))

        run(scenario())

    @pytest.mark.parametrize(
        ("url", "host", "port", "secure"),
        [
            ("https://h.example", "h.example", 443, True),
            ("https://h.example:8443/base", "h.example", 8443, True),
            ("http://h.example", "h.example", 80, False),
            ("https://[::1]:1", "::1", 1, True),
        ],
    )
    def test_address_of(self, url: str, host: str, port: int, secure: bool) -> None:
        """A URL gives host, port and whether there is TLS; the URL is the name of one that has no other."""
        context = client_context(insecure=True)
        found = address_of(url, context)
        assert (found.name, found.host, found.port, found.context is context) == (url, host, port, secure)
