"""The controller: which path goes where, and what each part does from start to stop.

Owns the routing: every request ends in a container's web service, the shell endpoint, a log, the embedded API, the
health check, or the metrics. The sockets belong to :mod:`arv_ssh.controller.process.acceptor`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from arv_ssh import extras
from arv_ssh.api.client import ApiClient
from arv_ssh.api.in_process import InProcessAdapter
from arv_ssh.audit.trail import Trail
from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.controller import change_stream
from arv_ssh.controller.change_stream import ChangeStream
from arv_ssh.controller.gateways.tunnels import PATH as TUNNEL_PATH
from arv_ssh.controller.gateways.tunnels import STREAM_PATH, Tunnels
from arv_ssh.controller.logs import PATH as LOG_PATH
from arv_ssh.controller.logs import Kept, KeptLogs, Log, Logs
from arv_ssh.controller.peers.peers import Peers
from arv_ssh.controller.process import management, metrics
from arv_ssh.controller.process.acceptor import Acceptor
from arv_ssh.controller.process.metrics import MetricsEndpoint, SessionMetrics
from arv_ssh.controller.reverse_proxy import PassThrough
from arv_ssh.controller.shell import session_admin
from arv_ssh.controller.shell.audit import SessionAudit
from arv_ssh.controller.shell.endpoint import PATH, ShellEndpoint
from arv_ssh.controller.shell.limits import SessionLimits
from arv_ssh.controller.shell.revocation import Revocation
from arv_ssh.controller.shell.session_admin import SessionAdmin
from arv_ssh.controller.shell.sessions import LiveConnection, Observer, Sessions
from arv_ssh.controller.shell.waiting import WaitingSessions
from arv_ssh.controller.web_services.endpoint import WebServices
from arv_ssh.errors import ConfigError, NotFound
from arv_ssh.log import event
from arv_ssh.net import tls
from arv_ssh.net.http_messages import Answer, Request, Response

if TYPE_CHECKING:
    from arv_ssh.embedded.api import EmbeddedApi

logger = logging.getLogger(__name__)

FIXED = ("cluster_id", "system_root_token", "api", "api_insecure", "database",
         "management_token", "auditing", "pass_through")  # fmt: skip
"""Settings that re-reading the config cannot change: the API and the secrets that everything open was made with."""
HEALTH_PATH = "/_health/ping"
OWN_PATHS = re.compile(
    "|".join((
        PATH.pattern, LOG_PATH.pattern, TUNNEL_PATH.pattern, session_admin.PATH.pattern, HEALTH_PATH, metrics.PATH,
    ))
)
"""Paths that are never passed on to the API host."""
EMBEDDED_THREADS = 8
"""Requests of the embedded API under way at once; writes queue up at the database anyway."""
STOP_GRACE = 2.0
"""Seconds for sessions being cut to send the bytes already read."""


class Controller:
    """One cluster's controller in one event loop. ``sessions`` are those open now, and take observers.

    ``peers`` are the cluster's other controllers, as seen from this one.
    """

    def __init__(self, config: ClusterConfig, peers: Peers) -> None:
        self.config = config
        self.peers = peers
        self._acceptor = Acceptor(
            self.handle, self.handle_private, _server_context(config), self._streams, self._is_for_the_api
        )
        self._embedded = _embedded_api(config)
        self._pool = ThreadPoolExecutor(EMBEDDED_THREADS, thread_name_prefix="embedded")
        self.sessions = Sessions()
        trail = Trail(config.auditing.audit, config.auditing.audit_directory, "controller")
        self._audit = SessionAudit(trail)
        self.sessions.observe(self._audit)
        self._last_session = _LastSession(self.sessions)
        self.sessions.observe(self._last_session)
        self._metrics = MetricsEndpoint(SessionMetrics(self.sessions, trail), peers, config.management_token)
        api = _api_client(config, self._embedded)
        self.tunnels = Tunnels(config, peers)
        limits = SessionLimits(config.limits, peers.run_dir)
        self._waiting = WaitingSessions(config.system_root_token, self.sessions)
        self._shell = ShellEndpoint(config, api, self.sessions, limits, self.tunnels)
        self._revocation = Revocation(config, api, self.sessions)
        self._session_admin = SessionAdmin(config, api, self.sessions, peers)
        self._pass_through = _pass_through(config)
        self._web_services = WebServices(config, api, self.tunnels, trail)
        self._logs = Logs(config, api, self.tunnels, _kept_logs(config))
        self._changes = ChangeStream(api)
        if self._embedded is not None:
            self._embedded.listen(self._changes.heard)

    async def start(self, listeners: Sequence[socket.socket], private: socket.socket) -> None:
        """Serve on bound sockets, with the config's TLS certificate, and without TLS on the process's private one."""
        self._changes.start()
        await self._acceptor.start(listeners, private)
        self._revocation.start()

    async def reload(self, config: ClusterConfig) -> None:
        """Decide by ``config`` from now on, use its certificate, and check at once whether open sessions may go on.

        The settings in :data:`FIXED`, on which the process was built, stay as they were until it is restarted. Raises
        :class:`ConfigError`, and leaves everything as it was, when the certificate cannot be used.
        """
        self._acceptor.context = _server_context(config)
        fixed = {name: getattr(self.config, name) for name in FIXED}
        if changed := [name for name, value in fixed.items() if getattr(config, name) != value]:
            event(logger, "the new config changes settings that need a restart", level=logging.WARNING, keys=changed)
        self.config = replace(config, **fixed)
        for part in (self._shell, self._web_services, self._logs):
            part.reload(self.config)
        self.tunnels.config = self.config
        self._revocation.config = self._session_admin.config = self.config
        self._revocation.look_now()

    async def drain(self) -> None:
        """Stop accepting, and wait until the last request is answered and the last session has ended.

        The private socket stays open: sessions are listed and ended through it. To stop waiting, cancel.
        """
        await self._acceptor.stop_accepting()
        self.tunnels.drain()
        self._changes.stop()
        self.sessions.leave_waiting()
        event(logger, "controller is draining", sessions=len(self.sessions))
        await self._acceptor.answered()
        await self._last_session.ended()
        await self.tunnels.lent_ended()

    async def stop(self) -> None:
        """Stop accepting and end all sessions."""
        self._acceptor.close()
        self._revocation.close()
        self._waiting.close()
        for part in (self._shell, self._web_services, self._logs):
            part.close()
        self.tunnels.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_GRACE):
                await self._last_session.ended()
        self._pool.shutdown(wait=False, cancel_futures=True)
        await self._audit.close()

    def _streams(self, request: Request) -> bool:
        """Say whether a request goes on to a container or to the API host, its body as it comes."""
        return self._web_services.serves(request) or self._passes_on(request)

    def _passes_on(self, request: Request) -> bool:
        return self._pass_through is not None and not OWN_PATHS.fullmatch(request.path)

    def _is_for_the_api(self, request: Request) -> bool:
        """Say whether a request is for the embedded API, and may be as long as a record."""
        path = request.path
        return self._embedded is not None and self._embedded.serves(path) and not OWN_PATHS.fullmatch(path)

    async def handle(self, request: Request) -> Answer:
        """Route one request: first by its host, then by its path."""
        if self._web_services.serves(request):
            return await self._web_services.handle(request)
        if self._pass_through is not None and self._passes_on(request):
            return await self._pass_through.handle(request)
        if found := PATH.fullmatch(request.path):
            return await self._shell.handle(found.group(1) or found.group(2), request)
        if found := LOG_PATH.fullmatch(request.path):
            return await self._logs.handle(found.group(1), found.group(2) or "", request)
        if found := TUNNEL_PATH.fullmatch(request.path):
            return self.tunnels.handle(found.group(1) or found.group(2), request)
        if found := session_admin.PATH.fullmatch(request.path):
            return await self._session_admin.handle(found.group(1), request)
        if request.path == HEALTH_PATH:
            management.check(request, self.config.management_token)
            return Response(200, b'{"health":"OK"}\n')
        if request.path == metrics.PATH:
            return await self._metrics.handle(request)
        if self._embedded is not None and request.path == change_stream.PATH:
            return await self._changes.handle(request)
        if self._embedded is not None and self._embedded.serves(request.path):
            answer = await asyncio.get_running_loop().run_in_executor(
                self._pool,
                self._embedded.handle,
                request.method, request.path, request.query,
                request.headers | {"x-request-id": request.request_id}, request.body,
            )  # fmt: skip
            return Response(answer.status, answer.body)
        raise NotFound(f"no such path: {request.path}")

    async def handle_private(self, request: Request) -> Answer:
        """Route one request of another process of this host."""
        if found := STREAM_PATH.fullmatch(request.path):
            return self.tunnels.handle_stream(found.group(1))
        return await self.handle(request)


class _LastSession(Observer):
    """Knows when the last session has ended."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._changed = asyncio.Event()

    def closed(self, session: LiveConnection, reason: str) -> None:
        self._changed.set()

    async def ended(self) -> None:
        """Wait until no session is live."""
        while len(self._sessions):
            self._changed.clear()
            await self._changed.wait()


def _server_context(config: ClusterConfig) -> ssl.SSLContext:
    certificate, key = config.tls_certificate, config.tls_key
    where = f"Clusters.{config.cluster_id}.TLS"
    if certificate is None or key is None:
        raise ConfigError(f"{where} lacks Certificate and Key; the controller serves HTTPS only")
    try:
        return tls.server_context(str(certificate), str(key))
    except OSError as error:
        raise ConfigError(f"cannot use {where} ({certificate}, {key}): {error.strerror or error}") from error


def _embedded_api(config: ClusterConfig) -> EmbeddedApi | None:
    """Return the embedded API unless the config names another API to ask; only the embedded one needs a database."""
    if config.api is not None:
        return None
    where = f"Clusters.{config.cluster_id}"
    if not config.database:
        raise ConfigError(
            f"no API to ask: give --api URL or {where}.API for a real Arvados, "
            f"or set {where}.EmbeddedAPI.Database for an embedded API"
        )
    extras.require(f"the embedded API of {where}", "embedded", *extras.DATABASE)
    from arv_ssh.embedded.api import EmbeddedApi

    return EmbeddedApi(config)


def _api_client(config: ClusterConfig, embedded: EmbeddedApi | None) -> ApiClient:
    if embedded is not None:
        return ApiClient("https://embedded.invalid", "", adapter=InProcessAdapter(embedded.handle))
    assert config.api is not None  # noqa: S101 - for mypy: no embedded API means there is one to ask
    return ApiClient(config.api, "", verify=_verify(config))


def _pass_through(config: ClusterConfig) -> PassThrough | None:
    if not config.pass_through:
        return None
    if config.api is None:
        where = f"Clusters.{config.cluster_id}"
        raise ConfigError(f"{where}.PassThrough is true, but there is no API to forward to; set {where}.API or --api")
    return PassThrough(config.api, _verify(config))


def _kept_logs(config: ClusterConfig) -> Kept:
    """Return what answers for the logs of ended containers: the API, or the embedded API's directory."""
    if config.api is None:
        return KeptLogs(config.container_logs.directory)
    api = PassThrough(config.api, _verify(config))

    async def ask(_: Log, request: Request) -> Answer:
        return await api.handle(request)

    return ask


def _verify(config: ClusterConfig) -> bool | str:
    return False if config.api_insecure else os.environ.get("SSL_CERT_FILE") or True
