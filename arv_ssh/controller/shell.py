"""The shell endpoint: ``POST /arvados/v1/containers/{uuid}/ssh`` becomes a raw stream to the container's gateway.

Owns the order of a session's beginning: policy, user, record, requests, state, gateway, mark, 101, relay. The decisions
are :mod:`arv_ssh.access`'s, the proofs :mod:`arv_ssh.controller.gateways`'s, the records the API's.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from arv_ssh import access, credentials, session_token
from arv_ssh.api.client import ApiClient
from arv_ssh.config import ClusterConfig
from arv_ssh.controller import gateways
from arv_ssh.errors import BadGateway, BadRequest, Forbidden, HttpError, Unauthorized
from arv_ssh.http_server import Request, Upgrade
from arv_ssh.log import event
from arv_ssh.relay import Relay
from arv_ssh.session_token import Session

logger = logging.getLogger(__name__)

PATH = re.compile(r"/arvados/v1/(?:containers/([^/]+)/ssh|connect/([^/]+)/ssh)")
"""The endpoint's two names; the second is what older Arvados clients ask for."""

API_THREADS = 32
"""Calls to the API under way at once; each takes milliseconds, and a burst of logins waits its turn."""


@dataclass(frozen=True)
class Grant:
    """A user's right to enter a container, as the API's records gave it."""

    user_uuid: str
    container: dict[str, Any]


class ShellEndpoint:
    """The shell endpoint of one cluster. ``api`` is asked as the user and as root; its token is not used by itself."""

    def __init__(self, config: ClusterConfig, api: ApiClient) -> None:
        self._config = config
        self._api = api
        self._root = api.with_token(config.system_root_token)
        self._pool = ThreadPoolExecutor(API_THREADS, thread_name_prefix="api")
        self._relays: set[Relay] = set()

    async def handle(self, uuid: str, request: Request) -> Upgrade:
        """Answer one request for a session with an upgrade, or raise the error to answer with."""
        if request.method != "POST":
            raise BadRequest("the shell endpoint takes POST")
        if request.headers.get("upgrade", "").lower() != "ssh":
            raise BadRequest("the shell endpoint needs the header Upgrade: ssh; use arvados-client ssh-proxy")
        grant = await self._in_thread(self._authorize, uuid, request.token())
        form = request.form()
        session = Session(
            container_uuid=uuid,
            exp=int(time.time()) + session_token.LIFETIME,
            login_username=form.get("login_username", ""),
            request_id=request.request_id,
            user_uuid=grant.user_uuid,
        )
        secret = credentials.container_secret(self._config.system_root_token, uuid)
        target = gateways.Target(secret, grant.container["gateway_address"], session, form.get("detach_keys", ""))
        connection = await gateways.connect(target)
        try:
            await self._in_thread(self._mark, grant.container)
        except BaseException:
            connection.transport.abort()
            raise
        if connection.transport.is_closing():
            raise BadGateway(f"the gateway of container {uuid} went away; try again")
        headers = _credential_headers(connection, secret, session)
        return Upgrade("ssh", headers, partial(self._relay, connection, session))

    async def _in_thread(self, call: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)

    def _authorize(self, uuid: str, token: str) -> Grant:
        access.check_enabled(self._config.shell_access)
        if not token:
            raise Unauthorized("no API token was sent; set ARVADOS_API_TOKEN to a token of this cluster")
        as_user = self._api.with_token(token)
        user = as_user.current_user()
        if "all" not in as_user.get("api_client_authorizations", "current")["scopes"]:
            raise Forbidden("this token is limited to some requests, and entering containers is none of them")
        container = as_user.get("containers", uuid)
        access.check_allowed(self._config.shell_access, user, container, self._requests(uuid))
        access.check_state(container)
        return Grant(user["uuid"], container)

    def _requests(self, uuid: str) -> list[dict[str, Any]]:
        """Return all requests that the container serves, seen as root: a user may not be able to read the others'."""
        try:
            return self._root.list_all(
                "container_requests",
                filters=[["container_uuid", "=", uuid]],
                select=["uuid", "modified_by_user_uuid"],
            )
        except HttpError as error:
            raise BadGateway(f"the API did not tell whose container {uuid} is: {error}") from error

    def _mark(self, container: dict[str, Any]) -> None:
        if container.get("interactive_session_started"):
            return
        try:
            self._root.update("containers", container["uuid"], {"interactive_session_started": True})
        except HttpError as error:
            raise BadGateway(f"container {container['uuid']} could not be marked as entered: {error}") from error

    def _relay(
        self, connection: gateways.GatewayConnection, session: Session, client: asyncio.Transport, early: bytes
    ) -> None:
        started = time.monotonic()
        fields: dict[str, Any] = {
            "request_id": session.request_id,
            "container_uuid": session.container_uuid,
            "user_uuid": session.user_uuid,
            "login_username": session.login_username,
        }
        event(logger, "session opened", **fields)

        def done(relay: Relay, error: Exception | None) -> None:
            self._relays.discard(relay)
            end: dict[str, Any] = {
                "seconds": round(time.monotonic() - started, 3),
                "bytes_from_client": relay.a.received,
                "bytes_to_client": relay.b.received,
                "error": str(error) if error else None,
            }
            event(logger, "session closed", **fields, **end)

        relay = Relay(client, early_a=early, early_b=connection.early, done=done)
        self._relays.add(relay)
        relay.join(connection.transport)

    def close(self) -> None:
        """End all sessions and the API threads."""
        for relay in list(self._relays):
            relay.close()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _credential_headers(
    connection: gateways.GatewayConnection, secret: str, session: Session
) -> list[tuple[str, str]]:
    if connection.host_key is None:
        return []
    text = session_token.encode(session)
    return [
        ("X-Arvados-Ssh-Host-Key", connection.host_key),
        ("X-Arvados-Ssh-User-Credential", credentials.user_credential(secret, text)),
    ]
