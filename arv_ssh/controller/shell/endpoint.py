"""The shell endpoint: ``POST /arvados/v1/containers/{uuid}/ssh`` becomes a raw stream to the container's gateway.

Owns the order of a session's beginning: policy, user, record, requests, state, gateway, mark, 101, relay. The decisions
belong to :mod:`arv_ssh.trust.access`, the proofs to :mod:`arv_ssh.controller.gateways.dial`, the records to the API.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from arv_ssh.api.client import ApiClient
from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.controller.api_calls import ApiCalls, as_roots
from arv_ssh.controller.gateways import dial
from arv_ssh.controller.gateways.tunnels import Tunnels
from arv_ssh.controller.peers import forward_session
from arv_ssh.controller.shell.limits import SessionLimits
from arv_ssh.controller.shell.sessions import Attempt, LiveConnection, Sessions
from arv_ssh.errors import (
    BadGateway,
    BadRequest,
    ClientClosed,
    Forbidden,
    HttpError,
    SessionEnded,
    Unauthorized,
    Unavailable,
)
from arv_ssh.net.http_messages import Request, Response, Upgrade, peer_address
from arv_ssh.net.tls import client_context
from arv_ssh.resume import negotiation
from arv_ssh.resume.negotiation import Asked
from arv_ssh.trust import access, credentials, session_claim
from arv_ssh.trust.session_claim import SessionClaim

PATH = re.compile(r"/arvados/v1/(?:containers/([^/]+)/ssh|connect/([^/]+)/ssh)")
"""The endpoint's two names; older Arvados clients ask for the second."""


@dataclass(frozen=True)
class Grant:
    """A user's right to enter a container, as the API's records gave it."""

    user_uuid: str
    container: dict[str, Any]


@dataclass(frozen=True)
class Opened:
    """A session's connection towards its gateway, and the headers it adds to the client's 101.

    ``hold`` is how many seconds the gateway holds the session without a connection, where that is ours to watch.
    """

    transport: asyncio.Transport
    early: bytes
    headers: list[tuple[str, str]]
    hold: float = 0.0


class ShellEndpoint:
    """The shell endpoint of one cluster. ``api`` is asked as the user and as root; its token is not used by itself.

    ``sessions`` is notified of each request: it becomes a session there, or is refused. ``tunnels`` are the ways to
    gateways that cannot be dialled.
    """

    def __init__(
        self, config: ClusterConfig, api: ApiClient, sessions: Sessions, limits: SessionLimits, tunnels: Tunnels
    ) -> None:
        self._config = config
        self._calls = ApiCalls(config, api)
        self._sessions = sessions
        self._limits = limits
        sessions.observe(limits)
        self._tunnels = tunnels
        self._peer_context = client_context(
            insecure=config.api_insecure, ca_file=os.environ.get("SSL_CERT_FILE") or None
        )

    async def handle(self, uuid: str, request: Request) -> Upgrade | Response:
        """Answer one request for a session with an upgrade, or raise the error to answer with.

        A GET asks whether this user may enter now: the same decisions answer it, without opening a session.
        """
        if request.method == "GET":
            asked = Attempt(request.request_id, uuid, "", peer_address(request))
            await self._calls.run(self._authorize, asked, request.token())
            return Response(200, b'{"shell": "allowed"}\n')
        login_username = request.form().get("login_username", "")
        attempt = Attempt(request.request_id, uuid, login_username, peer_address(request))
        try:
            return await self._begin(attempt, request)
        except HttpError as error:
            self._sessions.refused(attempt, error)
            raise
        except asyncio.CancelledError:
            self._sessions.refused(attempt, ClientClosed("the client left before it got its answer"))
            raise
        except Exception as error:
            self._sessions.refused(attempt, HttpError(f"the controller failed: {type(error).__name__}"))
            raise

    async def _begin(self, attempt: Attempt, request: Request) -> Upgrade:
        if request.method != "POST":
            raise BadRequest("the shell endpoint accepts POST, and GET to check access")
        if request.headers.get("upgrade", "").lower() != "ssh":
            raise BadRequest("the shell endpoint needs the header Upgrade: ssh; use arvados-client ssh-proxy")
        uuid = attempt.container_uuid
        asked = negotiation.read_request(request.headers.get(negotiation.HEADER.lower(), ""))
        self._check_denied(asked)
        began = time.monotonic()
        grant = await self._calls.run(self._authorize, attempt, request.token(), asked)
        allowed = time.monotonic() - began
        session = SessionClaim(
            container_uuid=uuid,
            exp=int(time.time()) + session_claim.LIFETIME,
            login_username=attempt.login_username,
            request_id=request.request_id,
            user_uuid=grant.user_uuid,
        )
        secret = credentials.container_secret(self._config.system_root_token, uuid)
        gateway_address, detach_keys = grant.container["gateway_address"], request.form().get("detach_keys", "")
        live = LiveConnection(
            request_id=attempt.request_id,
            container_uuid=uuid,
            user_uuid=grant.user_uuid,
            login_username=attempt.login_username,
            peer=attempt.peer,
            started=attempt.started,
            token=request.token(),
            gateway_address=gateway_address,
            dialer=self._tunnels,
        )
        elsewhere = self._tunnels.elsewhere(uuid, gateway_address)
        if asked is not None and asked.resumes:
            live.attempt = asked.attempt
            live.id = live.id if elsewhere else asked.session  # the other controller has it by that name
        await self._limits.take(live)
        attempt.session_id = live.id  # what is refused from here on gives its slot back
        target = dial.Target(
            secret, gateway_address, session, detach_keys, attempt.peer, self._tunnels,
            any_username=not forward_session.has_same_username(request), resume=_resume(asked, request, live),
        )  # fmt: skip
        opened = await self._open(target, request, asked, allowed, elsewhere)
        live.hold = opened.hold
        try:
            await self._sessions.opening(live)
            await self._calls.run(self._mark, grant.container, live)
            self._check_denied(asked)  # it may have been ended meanwhile
        except BaseException:
            opened.transport.abort()
            raise
        if opened.transport.is_closing():
            raise BadGateway(f"the gateway of container {uuid} went away; try again")
        return Upgrade("ssh", opened.headers, partial(self._relay, opened, live))

    def _check_denied(self, asked: Asked | None) -> None:
        if asked is not None and asked.resumes and (denied := self._sessions.denied(asked.session)):
            raise Forbidden(denied)

    async def _open(
        self, target: dial.Target, request: Request, asked: Asked | None, allowed: float, elsewhere: str
    ) -> Opened:
        """Connect to the gateway, or to the controller ``elsewhere`` that has its tunnel."""
        if elsewhere:
            passed = await forward_session.pass_on(
                elsewhere, target.session.container_uuid, request, self._peer_context
            )
            return Opened(passed.transport, passed.early, forward_session.headers_for_client(passed))
        connection = await dial.connect(target)
        if asked is not None and asked.resumes and not asked.is_answered_by(connection.resume):
            connection.transport.abort()  # a gateway that does not know the header has begun another session
            raise SessionEnded("the gateway of this container can not go on with sessions")
        headers = [
            *_credential_headers(connection, target.secret, target.session),
            _timing_header(allowed, connection),
        ]
        if not connection.resume:
            return Opened(connection.transport, connection.early, headers)
        headers.append((negotiation.HEADER, connection.resume))
        granted = negotiation.read_grant(connection.resume)
        hold = granted.seconds if granted else self._config.sessions.resume_for
        return Opened(connection.transport, connection.early, headers, hold)

    def _authorize(self, attempt: Attempt, token: str, asked: Asked | None = None) -> Grant:
        try:
            access.check_enabled(self._config.shell_access)
        except Unavailable as disabled:
            if asked is not None and asked.resumes:  # who goes on trying would only wait in vain
                raise Forbidden(str(disabled)) from disabled
            raise
        if not token:
            raise Unauthorized("no API token was sent; set ARVADOS_API_TOKEN to a token of this cluster")
        as_user = self._calls.as_user(token, attempt.request_id)
        user = as_user.current_user()
        attempt.user_uuid = access.user_uuid(user)
        access.check_active(user)
        uuid = attempt.container_uuid
        access.check_scopes(as_user.get("api_client_authorizations", "current"), "entering containers")
        container = as_user.get("containers", uuid)
        if container.get("uuid") != uuid:
            raise BadGateway(f"the API answered with another record than that of container {uuid}")
        requests = self._calls.requests_of(uuid, attempt.request_id)
        access.check_allowed(self._config.shell_access, user, container, requests)
        access.check_state(container, longest_hold=self._config.hold_on_failure)
        return Grant(attempt.user_uuid, container)

    def _mark(self, container: dict[str, Any], session: LiveConnection) -> None:
        if container.get("interactive_session_started") is True:
            return
        mark = access.mark(container, session.user_uuid, session.request_id, datetime.now(UTC))
        try:
            self._calls.as_root(session.request_id).update("containers", container["uuid"], mark, repeatable=True)
        except HttpError as error:
            raise as_roots(error, f"container {container['uuid']} could not be marked as entered") from error

    def _relay(self, opened: Opened, live: LiveConnection, client: asyncio.Transport, early: bytes) -> None:
        self._sessions.run(live, (client, early), (opened.transport, opened.early))

    def reload(self, config: ClusterConfig) -> None:
        """Decide by ``config`` from now on."""
        self._config = self._calls.config = config
        self._limits.reload(config.limits)

    def close(self) -> None:
        """End all sessions and the API threads."""
        self._sessions.close()
        self._limits.close()
        self._calls.close()


def _resume(asked: Asked | None, request: Request, live: LiveConnection) -> str:
    """Return what the gateway is told of resuming: the client's own words, or its wish with the session's id."""
    if asked is None:
        return ""
    return request.headers[negotiation.HEADER.lower()] if asked.resumes else negotiation.beginning(live.id)


def _timing_header(allowed: float, connection: dial.GatewayConnection) -> tuple[str, str]:
    """Report how long each step took, for ``arvados-client doctor`` (W3C Server Timing; milliseconds)."""
    took = {"policy": allowed, "gateway": connection.dialled, "proofs": connection.proven}
    return "Server-Timing", ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in took.items())


def _credential_headers(
    connection: dial.GatewayConnection, secret: str, session: SessionClaim
) -> list[tuple[str, str]]:
    if connection.host_key is None:
        return []
    text = session_claim.encode(session)
    others = connection.other_host_keys
    return [
        ("X-Arvados-Ssh-Host-Key", connection.host_key),
        *([("X-Arvados-Ssh-Other-Host-Keys", others)] if others else []),
        ("X-Arvados-Ssh-User-Credential", credentials.user_credential(secret, text)),
    ]
