"""A user's request passed on to a container's gateway: for the container's log, or for one of its ports.

Owns the proofs of such an exchange and which headers are between the controller and the gateway alone. Must not know who
asks, nor why they may. One request a connection, as with stock Arvados.
"""

from __future__ import annotations

import asyncio

from arv_ssh.controller.gateways.dial import RESPONSE_HEADER, Gateway
from arv_ssh.errors import GatewayTimeout
from arv_ssh.net.http_client import Head
from arv_ssh.net.http_messages import Request, StreamedResponse, Upgrade
from arv_ssh.net.http_relay import Headers, RelayedExchange, asks_for_websocket, end_to_end

ANSWER_TIMEOUT = 300.0
"""Seconds for the head of an answer: the RequestTimeout of stock Arvados. A body may take any time, and be silent."""
WEBSOCKET = "websocket"


class GatewayExchange:
    """One exchange of ``request`` with ``gateway``.

    :meth:`begin` sends it and returns the proven head of the answer; :meth:`answer` gives the answer with the headers
    that the client shall see. What fails on the way cuts the connection.
    """

    def __init__(self, gateway: Gateway, request: Request) -> None:
        self._gateway = gateway
        self._request = request
        self._protocol = WEBSOCKET if asks_for_websocket(request) else ""
        self._head: Head
        self._exchange: RelayedExchange

    async def begin(self, target: str, headers: Headers) -> Headers:
        """Send the request with ``headers`` to ``target``; return the headers of the answer that are not the gateway's.

        Raises :class:`Unavailable` (cannot be reached), :class:`GatewayTimeout` or :class:`BadGateway`.
        """
        http, proof = await self._gateway.connect(self._protocol)
        self._exchange = RelayedExchange(http, self._request)
        own = [
            (b"x-arvados-container-gateway-uuid", self._gateway.uuid.encode()),
            (b"x-arvados-authorization", proof.encode()),
            (b"connection", b"upgrade" if self._protocol else b"close"),
            *([(b"upgrade", self._protocol.encode())] if self._protocol else []),
        ]
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                self._head = await self._exchange.begin(self._request.method, target, [*headers, *own])
            self._gateway.check(self._head, proof)
        except TimeoutError as error:
            self.abort()
            raise GatewayTimeout(f"the gateway of container {self._gateway.uuid} has not answered yet") from error
        except BaseException:
            self.abort()
            raise
        return [pair for pair in end_to_end(self._head.headers) if pair[0] != RESPONSE_HEADER.encode()]

    def answer(self, headers: Headers) -> StreamedResponse | Upgrade:
        """Return the gateway's answer with ``headers``."""
        if self._head.status == 101:
            return self._exchange.upgrade(self._protocol, headers)
        return self._exchange.answer(self._head, headers)

    def abort(self) -> None:
        """Cut the connection."""
        self._exchange.abort()
