"""The controller's answer to requests for a container's log, by WebDAV: live from its gateway, else what was kept.

Owns which of the two it is, and who may read: whoever may read the container request. As with stock Arvados,
``/arvados/v1/container_requests/CR/log/CTR/FILE``. The exchange with a gateway is
:mod:`arv_ssh.controller.gateways.requests`'s; what was kept is another's.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arv_ssh import uuids
from arv_ssh.api.client import ApiClient
from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.controller.api_calls import ApiCalls
from arv_ssh.controller.gateways import requests
from arv_ssh.controller.gateways.dial import Gateway
from arv_ssh.controller.gateways.requests import Watch
from arv_ssh.controller.gateways.tunnels import Tunnels
from arv_ssh.controller.peers import forward_request
from arv_ssh.controller.reverse_proxy import about_client, path_of
from arv_ssh.errors import BadGateway, GatewayTimeout, MethodNotAllowed, NotFound, Unauthorized, Unavailable
from arv_ssh.net.http_messages import Answer, Request, Response
from arv_ssh.net.http_relay import Headers, request_headers
from arv_ssh.net.tls import client_context
from arv_ssh.trust import credentials
from arv_ssh.webdav.server import DavServer

PATH = re.compile(r"/arvados/v1/container_requests/([^/]+)/log(/.*)?")
METHODS = ("GET", "HEAD", "OPTIONS", "PROPFIND")
LIVE = ("Locked", "Running")
"""The states in which a container's gateway has its log; the last words are there before the container runs."""
_CROSS_ORIGIN = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": ", ".join(METHODS),
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Depth, Range",
    "Access-Control-Expose-Headers": "Content-Range",
    "Access-Control-Max-Age": "86400",
}
"""What a browser needs so that Workbench, a page of another host, may read logs; a token comes in a header alone."""
_PRIVATE = (b"authorization", b"cookie", b"x-forwarded-for", b"x-forwarded-proto", b"x-request-id")


@dataclass(frozen=True)
class Log:
    """What a request is for: ``path`` ("/CTR/FILE") below the log of ``request``, whose container is ``container``.

    Both are records with some attributes; ``container`` is empty where the request has none.
    """

    request: dict[str, Any]
    container: dict[str, Any]
    path: str

    @property
    def uuid(self) -> str:
        """The container's UUID, "" for none."""
        return str(self.container.get("uuid", ""))

    @property
    def prefix(self) -> str:
        """The path of the API that leads to the container's log."""
        return f"/arvados/v1/container_requests/{self.request['uuid']}/log/{self.uuid}"

    @property
    def is_below(self) -> bool:
        """Say whether it is the container's log, or a file of that."""
        return bool(self.uuid) and f"{self.path}/".startswith(f"/{self.uuid}/")

    @property
    def is_live(self) -> bool:
        """Say whether the container's gateway has what is asked for."""
        return self.is_below and bool(self.container.get("gateway_address")) and self.container.get("state") in LIVE


Kept = Callable[[Log, Request], Awaitable[Answer]]
"""Answers for what was kept of a log."""


class Logs:
    """The logs of one cluster's containers; ``kept`` answers for those of ended ones."""

    def __init__(self, config: ClusterConfig, api: ApiClient, tunnels: Tunnels, kept: Kept) -> None:
        self._calls = ApiCalls(config, api)
        self._tunnels = tunnels
        self._kept = kept
        self._peer_context = client_context(
            insecure=config.api_insecure, ca_file=os.environ.get("SSL_CERT_FILE") or None
        )

    async def handle(self, uuid: str, path: str, request: Request) -> Answer:
        """Answer one request for ``path`` of the log of container request ``uuid``."""
        request.answer_headers.update(_CROSS_ORIGIN)
        if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            return Response(200, b"", content_type="text/plain")
        if request.method not in METHODS:
            refusal = MethodNotAllowed(f"a log is read by {', '.join(METHODS)}, not changed by {request.method[:20]}")
            refusal.headers = [("Allow", ", ".join(METHODS))]
            raise refusal
        log = await self._calls.run(self._find, uuid, path, request)
        return await (self._live(log, request) if log.is_live else self._kept(log, request))

    def _find(self, uuid: str, path: str, request: Request) -> Log:
        """Return what the user asks for, as far as this user may read it; blocking."""
        try:
            token = _token(request)
            if not token:
                raise Unauthorized("a log needs an API token, as a Bearer token or as the password of Basic")
            return self._log(uuid, path, token, request.request_id)
        except Unauthorized as error:
            error.headers = [("WWW-Authenticate", 'Basic realm="container logs"')]  # WebDAV clients can ask for one
            raise

    def _log(self, uuid: str, path: str, token: str, request_id: str) -> Log:
        if uuids.kind(uuid) != uuids.CONTAINER_REQUEST:
            raise NotFound(f"container request {uuid[:40]!r} was not found: that is not a container request's UUID")
        api = self._calls.as_user(token, request_id)
        request = api.get("container_requests", uuid, select=["uuid", "container_uuid", "log_uuid"])
        container_uuid = request.get("container_uuid")
        return Log(request, self._container(container_uuid, api) if container_uuid else {}, path)

    def _container(self, uuid: str, api: ApiClient) -> dict[str, Any]:
        return api.get("containers", uuid, select=["uuid", "state", "gateway_address"])

    async def _live(self, log: Log, request: Request) -> Answer:
        try:
            return await self._from_gateway(log, request)
        except (Unavailable, BadGateway, GatewayTimeout):
            # Its crunch-run may have ended since the record was read.
            api = self._calls.as_root(request.request_id)
            now = Log(log.request, await self._calls.run(self._container, log.uuid, api), log.path)
            if now.is_live:
                raise
            return await self._kept(now, request)

    async def _from_gateway(self, log: Log, request: Request) -> Answer:
        address = log.container["gateway_address"]
        if url := self._tunnels.elsewhere(log.uuid, address):
            target = f"{path_of(request).partition('?')[0]}?no_forward=true"
            return await forward_request.pass_on(url, log.uuid, request, target, self._peer_context, Watch())
        secret = credentials.container_secret(self._calls.config.system_root_token, log.uuid)
        gateway = Gateway(log.uuid, secret, address, self._tunnels)
        return await requests.pass_on(gateway, request, path_of(request), _for_gateway(log, request), Watch())

    def reload(self, config: ClusterConfig) -> None:
        """Use ``config`` from now on."""
        self._calls.config = config

    def close(self) -> None:
        """End the threads."""
        self._calls.close()


def _token(request: Request) -> str:
    """Return the token of a Bearer header, or the password of a Basic one: WebDAV clients know no other."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return request.token()
    try:
        return base64.b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _for_gateway(log: Log, request: Request) -> Headers:
    kept = [pair for pair in request_headers(request, _PRIVATE) if not requests.for_gateway(pair[0])]
    own = [(b"x-webdav-source", b"/log"), (b"x-webdav-prefix", log.prefix.encode())]
    return [*kept, *about_client(request), *own]


class KeptLogs:
    """What was kept of logs on this machine, in one directory a container below ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._server = DavServer(directory)

    async def __call__(self, log: Log, request: Request) -> Answer:
        """Answer for the container of the request that was asked for, and for no other."""
        if not log.is_below:
            raise NotFound(f"container request {log.request['uuid']} has no log at {log.path[:200]!r}")
        return await self._server.handle(request, log.prefix.removesuffix(f"/{log.uuid}"))
