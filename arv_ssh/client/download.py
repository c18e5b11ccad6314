"""A GET whose answer may be of any length: its body comes in pieces, from a place in the file that the caller names.

Owns the exchange. Knows nothing of what is read. On h11, which ssh-proxy never needs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import h11

from arv_ssh.client import transport
from arv_ssh.client.controller import Controller
from arv_ssh.errors import BadGateway, HttpError
from arv_ssh.net import upgrade

STALL = 60.0
"""Seconds that the answer may go without a byte."""
_TOTAL = re.compile(r"bytes [^/]*/([0-9]{1,18})")


class Download:
    """The answer: its ``status``, and the pieces of its body by :meth:`pieces`."""

    def __init__(self, connection: transport.Connection, exchange: h11.Connection, response: h11.Response) -> None:
        self._connection = connection
        self._exchange = exchange
        self.status = response.status_code
        self.reason = bytes(response.reason).decode("latin-1")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
        found = _TOTAL.fullmatch(headers.get("content-range", ""))
        self.total = int(found.group(1)) if found else None
        """Bytes of the whole file, where the server says so."""

    def pieces(self) -> Iterator[bytes]:
        """Give the body as it comes; raise :class:`BadGateway` when it breaks off."""
        while not isinstance(event := _next_event(self._connection, self._exchange), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)

    def refusal(self) -> HttpError:
        """Return the error that the answer means."""
        body = bytearray()
        for piece in self.pieces():
            body += piece
            if len(body) > upgrade.BODY_LIMIT:
                break
        return upgrade.refusal(self._connection.peer, self.status, self.reason, bytes(body), "")


@contextmanager
def download(controller: Controller, path: str, start: int) -> Iterator[Download]:
    """Ask for the file at ``path`` from byte ``start`` on; the connection is closed at the end of the block."""
    connection = transport.dial(controller.settings)
    try:
        exchange = h11.Connection(h11.CLIENT)
        headers = [
            ("Host", controller.settings.authority), *controller.headers(), ("Range", f"bytes={start}-"),
            ("Connection", "close"),
        ]  # fmt: skip
        head = exchange.send(h11.Request(method="GET", target=path, headers=headers)) or b""
        head += exchange.send(h11.EndOfMessage()) or b""
        transport.send(connection, head, time.monotonic() + STALL)
        while not isinstance(event := _next_event(connection, exchange), h11.Response):
            pass
        yield Download(connection, exchange, event)
    finally:
        connection.close()


def _next_event(connection: transport.Connection, exchange: h11.Connection) -> h11.Event:
    try:
        while (event := exchange.next_event()) is h11.NEED_DATA:
            exchange.receive_data(transport.receive(connection, time.monotonic() + STALL))
    except h11.RemoteProtocolError as error:
        raise BadGateway(f"{connection.peer} broke off its answer ({error}); try again") from error
    if not isinstance(event, h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage):
        raise BadGateway(f"{connection.peer} broke off its answer; try again")
    return event
