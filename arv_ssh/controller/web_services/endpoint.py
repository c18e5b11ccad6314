"""The controller's answer to a request for a web service of a container.

Owns the order: token out of the address, right to the port, traces of another container out of the browser, a place
among the visits, the gateway or the controller that has its tunnel. The decisions belong to
:mod:`arv_ssh.controller.web_services.authorize`, the exchange to :mod:`arv_ssh.controller.gateways.requests`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from arv_ssh.api.client import ApiClient
from arv_ssh.audit.trail import Trail
from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.controller.api_calls import ApiCalls
from arv_ssh.controller.gateways import requests
from arv_ssh.controller.gateways.dial import Gateway
from arv_ssh.controller.gateways.requests import Watch
from arv_ssh.controller.gateways.tunnels import Tunnels
from arv_ssh.controller.peers import forward_request
from arv_ssh.controller.reverse_proxy import about_client, path_of
from arv_ssh.controller.web_services import names, tokens
from arv_ssh.controller.web_services.authorize import Asked, Grant
from arv_ssh.controller.web_services.grants import Grants
from arv_ssh.controller.web_services.visits import Exchange, Visitor, Visits
from arv_ssh.errors import BadGateway, GatewayTimeout, HttpError, NotFound, Unavailable
from arv_ssh.net.http_messages import Answer, Chunks, Request, Response, StreamedResponse, Upgrade, peer_address
from arv_ssh.net.http_relay import Headers, protocol_of, request_headers
from arv_ssh.net.relay import Relay
from arv_ssh.net.tls import client_context
from arv_ssh.trust import credentials

REVIEW = 30.0
"""Seconds between two looks at whether an open WebSocket, or an answer that goes on and on, may continue."""
_REPLACED = (b"x-forwarded-for", b"x-forwarded-proto", b"x-request-id")


class WebServices:
    """The web services of the containers of one cluster; ``api`` is asked as the user and as root."""

    def __init__(self, config: ClusterConfig, api: ApiClient, tunnels: Tunnels, trail: Trail) -> None:
        self._calls = ApiCalls(config, api)
        self._tunnels = tunnels
        self._visits = Visits(trail)
        self._grants = Grants(self._calls)
        self._reviews: set[asyncio.Task[None]] = set()
        self._relays: set[Relay] = set()
        self._peer_context = client_context(
            insecure=config.api_insecure, ca_file=os.environ.get("SSL_CERT_FILE") or None
        )

    def serves(self, request: Request) -> bool:
        """Say whether a request is for a web service, by its Host header."""
        return names.is_web_service(self._calls.config.web_services, request.headers.get("host", ""))

    async def handle(self, request: Request) -> Answer:
        """Answer one request; a refusal is a sentence for people."""
        try:
            return await self._answer(request)
        except HttpError as error:
            return _page(error)

    async def _answer(self, request: Request) -> Answer:
        target = names.target(self._calls.config.web_services, request.headers.get("host", ""))
        used = tokens.credentials(request)
        if used.in_query:  # before anything else: whatever the answer is, it must not be read under that address
            return tokens.redirect(request, clear=False)
        asked = Asked(target, used.token, request.request_id)
        grant = await self._granted(self._grants.find, asked, request)
        if tokens.has_seen_another(request, grant.uuid, target.external_port):
            return _start_afresh(request)
        visitor = Visitor(grant.user_uuid, grant.uuid, grant.port, peer_address(request))
        exchange = await self._visits.enter(visitor, request.request_id)
        try:
            answer = await self._exchange(request, asked, used, grant, exchange)
        except BaseException as error:
            exchange.close()
            if isinstance(error, Unavailable | BadGateway | GatewayTimeout):
                await self._granted(self._grants.ask, asked, request)  # it may have ended: then that is the reason
            raise
        if isinstance(answer, Upgrade):
            return answer
        return replace(answer, chunks=_Watched(answer.chunks, exchange, lambda: self._check_again(asked)))

    async def _granted(self, find: Callable[[Asked], Awaitable[Grant]], asked: Asked, request: Request) -> Grant:
        try:
            return await find(asked)
        except HttpError as error:
            visitor = Visitor("", asked.target.uuid or asked.target.name, asked.target.port, peer_address(request))
            self._visits.refused(visitor, request.request_id, error)
            raise

    async def _exchange(
        self, request: Request, asked: Asked, used: tokens.Credentials, grant: Grant, exchange: Exchange
    ) -> StreamedResponse | Upgrade:
        """Have the request answered by the gateway, or by the controller that has its tunnel."""
        watch = Watch(
            shown=lambda headers: tokens.for_browser(headers, request, grant.uuid, asked.target.external_port),
            joined=lambda relay: self._joined(asked, relay, exchange),
            done=exchange.close,
        )
        address = grant.container["gateway_address"]
        if url := self._tunnels.elsewhere(grant.uuid, address):
            return await forward_request.pass_on(
                url, grant.uuid, request, path_of(request), self._peer_context, watch
            )
        secret = credentials.container_secret(self._calls.config.system_root_token, grant.uuid)
        gateway = Gateway(grant.uuid, secret, address, self._tunnels)
        headers = _for_gateway(request, used, grant.port)
        return await requests.pass_on(gateway, request, path_of(request), headers, watch)

    def _joined(self, asked: Asked, relay: Relay, exchange: Exchange) -> None:
        """Watch a WebSocket, which ends when its user may no longer use the port."""
        self._relays.add(relay)
        review = asyncio.get_running_loop().create_task(self._review(asked, relay))
        self._reviews.add(review)

        def ended() -> None:
            exchange.sent = relay.b.received
            review.cancel()
            self._reviews.discard(review)
            self._relays.discard(relay)

        exchange.on_close(ended)

    async def _review(self, asked: Asked, relay: Relay) -> None:
        while True:
            await asyncio.sleep(REVIEW)
            try:
                await self._check_again(asked)
            except HttpError:
                relay.close()
                return

    async def _check_again(self, asked: Asked) -> None:
        """Raise the refusal where there is one by now; an API that cannot answer ends nothing."""
        try:
            await self._grants.ask(asked)
        except HttpError as error:
            if error.status < 500:
                raise

    def reload(self, config: ClusterConfig) -> None:
        """Decide by ``config`` from now on."""
        self._calls.config = config

    def close(self) -> None:
        """End the WebSockets, and note the end of all visits."""
        for relay in list(self._relays):
            relay.close()
        self._visits.close()
        self._calls.close()


def _for_gateway(request: Request, used: tokens.Credentials, port: int) -> Headers:
    received = request_headers(request, _REPLACED, protocol_of(request))
    kept = [pair for pair in received if not requests.for_gateway(pair[0])]
    own = (b"x-arvados-container-target-port", str(port).encode())
    return [*tokens.for_container(kept, used), *about_client(request), own]


def _start_afresh(request: Request) -> Response:
    """Have a browser drop what another container left; a page of that container must not act on this one."""
    if request.method not in ("GET", "HEAD"):
        raise NotFound("another container had this address before; load its page again")
    return tokens.redirect(request, clear=True)


def _page(error: HttpError) -> Response:
    headers = [*error.headers, ("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store")]
    return Response(error.status, f"{error}\n".encode(), "text/plain; charset=utf-8", headers)


class _Watched:
    """The pieces of an answer, counted; ``check`` raises where it may not go on, and is asked now and then."""

    def __init__(self, pieces: Chunks, exchange: Exchange, check: Callable[[], Awaitable[None]]) -> None:
        self._pieces = pieces
        self._exchange = exchange
        self._check = check

    async def __aiter__(self) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        checked = clock()
        async for piece in self._pieces:
            if clock() - checked >= REVIEW:
                await self._check()
                checked = clock()
            self._exchange.sent += len(piece)
            yield piece

    async def aclose(self) -> None:
        await self._pieces.aclose()
