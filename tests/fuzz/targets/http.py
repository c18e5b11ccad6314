"""What arrives in HTTP: answers to an upgrade, requests, and the session that a controller claims."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any
from urllib.parse import unquote

import h11

from arv_ssh.errors import BadGateway, BadRequest, HttpError
from arv_ssh.net import upgrade
from arv_ssh.net.http_messages import Request, Response, Upgrade
from arv_ssh.net.http_server import HttpConnection
from arv_ssh.net.upgrade import BODY_LIMIT, UpgradeAnswer
from arv_ssh.trust import session_claim
from arv_ssh.trust.session_claim import SessionClaim
from tests.fuzz.harness import Choices, Target, pieces


def upgrade_answer(data: bytes) -> None:
    """The same answer, whole and in pieces, means the same; only BadGateway is raised; the error is one line."""
    size = 1 + (data[0] % 16 if data else 0)
    whole, in_pieces = _answer([data[1:]]), _answer(list(pieces(data[1:], size)))
    assert whole == in_pieces, (whole, in_pieces)


def _answer(parts: list[bytes]) -> Any:
    answer = UpgradeAnswer("peer")
    try:
        number = -1
        for part in (*parts, b""):
            number += 1
            if answer.receive(part):
                break
    except BadGateway:
        return "BadGateway"
    if answer.status == 101:
        return answer.status, answer.headers, answer.trailing + b"".join(parts[number + 1 :])
    assert len(answer.body) <= BODY_LIMIT
    assert isinstance(answer.error(), HttpError) and "\n" not in answer.reason_given()
    return answer.status, answer.body, str(answer.error())


def upgrade_request(data: bytes) -> None:
    """h11 reads back what was written, or it was refused with ValueError."""
    choices = Choices(data)
    name, value, path = (choices.string().decode("utf-8", "replace") for _ in range(3))
    assert unquote(upgrade.quote(value)) == value
    try:
        sent = upgrade.request("POST", f"/{upgrade.quote(path)}", "host", [("X-A", "b")], {name: value})
    except ValueError:
        return
    http = h11.Connection(h11.SERVER)
    http.receive_data(sent)
    head, body = http.next_event(), http.next_event()
    assert isinstance(head, h11.Request) and unquote(head.target.decode()) == f"/{path}"
    assert isinstance(body, h11.Data) and body.data == f"{upgrade.quote(name)}={upgrade.quote(value)}".encode()


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.sent = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    pause_reading = resume_reading = write_eof = lambda self: None

    def can_write_eof(self) -> bool:
        return True


async def _handler(request: Request) -> Response | Upgrade:
    fields, token = request.form(), request.token()
    if request.stream is not None:
        fields["size"] = str(len(await request.stream.read()))
    if request.headers.get("upgrade") == "ssh":
        return Upgrade("ssh", [], lambda transport, early: transport.close())
    return Response(200, json.dumps([request.method, request.path, fields, token]).encode())


_loop = asyncio.new_event_loop()


def http_server(data: bytes) -> None:
    """Whatever is sent, nothing is raised, no answer is 500, and a client can read each answer."""
    _loop.run_until_complete(_serve(data))


async def _serve(data: bytes) -> None:
    connection = HttpConnection(_handler, lambda request: request.path.startswith("/stream"))
    transport = _Transport()
    connection.connection_made(transport)
    for piece in pieces(data[1:], 1 + (data[0] if data else 0) * 4):
        if transport.closed:
            break
        connection.data_received(piece)
        for _ in range(4):
            await asyncio.sleep(0)
    if not transport.closed:
        connection.eof_received()
    for _ in range(8):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    await asyncio.sleep(0)
    assert b"HTTP/1.1 500" not in transport.sent, transport.sent
    assert not transport.sent or transport.sent.startswith(b"HTTP/1.1 "), transport.sent


def claim(data: bytes) -> None:
    """Only BadRequest is raised; what was understood is understood again after it was written."""
    for text in (data.decode("utf-8", "surrogateescape"), base64.urlsafe_b64encode(data).decode().rstrip("=")):
        try:
            found = session_claim.decode(text)
        except BadRequest:
            continue
        assert session_claim.decode(session_claim.encode(found)) == found
    choices = Choices(data)
    words = [choices.string().decode("utf-8", "replace") for _ in range(4)]
    made = SessionClaim(words[0], choices.number(), *words[1:])
    assert session_claim.decode(session_claim.encode(made)) == made


TARGETS = (
    Target("upgrade-answer", upgrade_answer.__doc__ or "", upgrade_answer),
    Target("upgrade-request", upgrade_request.__doc__ or "", upgrade_request),
    Target("http-server", http_server.__doc__ or "", http_server),
    Target("session-claim", claim.__doc__ or "", claim),
)
