"""The administrators' view of sessions: list those of the whole cluster, and end one.

Owns ``GET /arvados/v1/shell_sessions`` and ``POST /arvados/v1/shell_sessions/ID/kill``, and how one controller process
asks the others: those of its host over their private sockets, those of other hosts at their internal URLs. Between
controllers a proof made with the SystemRootToken takes a token's place; a user's token is never sent on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from arv_ssh.api.client import ApiClient
from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.controller.peers import peer_client, peer_proofs
from arv_ssh.controller.peers.peers import Peers
from arv_ssh.controller.shell import endings
from arv_ssh.controller.shell.sessions import KILLED, LiveConnection, Sessions
from arv_ssh.errors import BadRequest, Forbidden, HttpError, MethodNotAllowed, NotFound, Unauthorized
from arv_ssh.log import event
from arv_ssh.net.http_messages import Request, Response
from arv_ssh.trust import access
from arv_ssh.trust.session_claim import LONGEST_REASON

logger = logging.getLogger(__name__)

BASE = "/arvados/v1/shell_sessions"
PATH = re.compile(rf"{BASE}(?:/([^/]+)/kill)?")
SESSION_ID = re.compile(r"ses-[0-9a-f]{20}")
CLUSTER, HOST, PROCESS = "cluster", "host", "process"
"""How far a request goes: to all controllers, to those of this host, or no further. Controllers never ask each other
for "all", so that no two of them keep asking each other."""
LIST_PATIENCE = 5.0
KILL_PATIENCE = 20.0
"""Seconds for another controller's answer, which waits for a session's end."""
TELL_PATIENCE = 5.0
"""The same where the session is here: the others need only know that it must not come back through them."""

Record = dict[str, Any]


@dataclass(frozen=True)
class PeerAnswers:
    """Other controllers' answers, and sentences about those that did not answer."""

    records: list[Record]
    missing: list[str]


class SessionAdmin:
    """The endpoint. ``config`` may be replaced; ``api`` identifies the caller."""

    def __init__(self, config: ClusterConfig, api: ApiClient, sessions: Sessions, peers: Peers) -> None:
        self.config = config
        self._api = api
        self._sessions = sessions
        self._peers = peers
        self._proofs = peer_proofs.Verifier()

    async def handle(self, session_id: str | None, request: Request) -> Response:
        """Answer an administrator, or another controller; ``session_id`` is the path's."""
        scope, caller = await self._authorize(request)
        if session_id is None:
            if request.method != "GET":
                raise MethodNotAllowed(f"{BASE} accepts GET only")
            return _answer(await self._list(scope))
        if request.method != "POST":
            raise MethodNotAllowed("use POST to end a session")
        if not SESSION_ID.fullmatch(session_id):
            raise NotFound(f"{session_id[:40]!r} is not a session id; arv-ssh sessions list shows them")
        return _answer(await self._kill(session_id, _reason(request), scope, caller))

    async def _authorize(self, request: Request) -> tuple[str, str]:
        """Return how far the request goes and who sent it; raise unless the sender is allowed to."""
        scope = request.query.removeprefix("scope=") or CLUSTER
        if scope != CLUSTER:
            self._proofs.check(self.config.system_root_token, self._peers.own_name(host=scope == HOST), request)
            return scope, "another controller"
        if not request.token():
            raise Unauthorized("no API token was sent; set ARVADOS_API_TOKEN to an administrator's token")
        as_user = self._api.with_token(request.token())
        user = await asyncio.to_thread(as_user.current_user)
        access.check_active(user)
        token = await asyncio.to_thread(as_user.get, "api_client_authorizations", "current")
        access.check_scopes(token, "listing and ending sessions")
        uuid = access.user_uuid(user)
        if not access.is_administrator(user):
            raise Forbidden(f"only administrators can list or end sessions; user {uuid} is not one")
        return scope, uuid

    async def _list(self, scope: str) -> Record:
        others = await self._ask_others("GET", BASE, {}, scope, LIST_PATIENCE)
        found: dict[str, Record] = {}
        for record in (record for answer in others.records for record in answer["items"]):
            _choose(found, record)
        for record in map(_record, self._sessions):
            _choose(found, record)
        missing = others.missing + [sentence for answer in others.records for sentence in answer["missing"]]
        return {
            "kind": "arv-ssh#shellSessionList",
            "items": sorted(found.values(), key=lambda record: record["started"]),
            "missing": missing,
        }

    async def _kill(self, session_id: str, reason: str, scope: str, caller: str) -> Record:
        sentence = f"an administrator ended this session{f': {reason}' if reason else ''}"
        self._sessions.deny(session_id, sentence)  # wherever it is: it may come here next
        session = self._sessions.get(session_id)
        tell = partial(self._ask_others, "POST", f"{BASE}/{session_id}/kill", {"reason": reason}, scope)
        if session is not None:
            record = _record(session)
            event(logger, "session is killed", session_id=session_id, request_id=session.request_id, by=caller,
                  reason=reason)  # fmt: skip
            ending = endings.end(session, KILLED, sentence, self.config.system_root_token)
            await asyncio.gather(ending, tell(TELL_PATIENCE))
            return record
        others = await tell(KILL_PATIENCE)
        if others.records:
            return others.records[0]
        unasked = f" ({'; '.join(others.missing)})" if others.missing else ""
        raise NotFound(f"no session {session_id} is open here; arv-ssh sessions list shows the open ones{unasked}")

    async def _ask_others(self, method: str, path: str, body: Record, scope: str, patience: float) -> PeerAnswers:
        """Ask the controllers within ``scope``; a 404 means that a controller does not have the session."""
        asked: list[Awaitable[Record | str | None]] = []
        if scope != PROCESS:
            for sibling in await asyncio.to_thread(self._peers.siblings):
                asked.append(self._ask(str(sibling), f"{path}?scope={PROCESS}", method, body, patience))
        if scope == CLUSTER:
            for url in self._peers.others():
                asked.append(self._ask(url, f"{path}?scope={HOST}", method, body, patience))
        answers = await asyncio.gather(*asked)
        return PeerAnswers(
            [answer for answer in answers if isinstance(answer, dict)],
            [answer for answer in answers if isinstance(answer, str)],
        )

    async def _ask(
        self, controller: str, target: str, method: str, body: Record, patience: float
    ) -> Record | str | None:
        """Return one controller's answer; None when it does not have the session, a sentence when it did not answer."""
        request = peer_client.PeerRequest(method, target, "", body=body)
        proof, headers = peer_proofs.prove(self.config.system_root_token, controller, method, target, request.content())
        request = replace(request, token=proof, headers=headers)
        verify = False if self.config.api_insecure else os.environ.get("SSL_CERT_FILE") or True
        try:
            status, answer = await peer_client.ask(controller, request, patience, verify=verify)
            if status == 200:
                return dict(json.loads(answer))
            if status == 404 and method == "POST":
                return None
            cause = f"it answered with status {status}"
        except (OSError, ValueError, HttpError) as error:
            cause = str(error) or type(error).__name__
        event(logger, "another controller was not asked", level=logging.WARNING, controller=controller, error=cause)
        return f"controller {controller} was not asked: {cause}"


def _record(session: LiveConnection) -> Record:
    waiting = session.waiting_since
    return {
        "id": session.id,
        "request_id": session.request_id,
        "user_uuid": session.user_uuid,
        "container_uuid": session.container_uuid,
        "login_username": session.login_username,
        "peer": session.peer,
        "started": _moment(session.started),
        "state": "open" if waiting is None else "waiting",
        "waiting_since": None if waiting is None else _moment(waiting),
        "seconds": round(session.seconds),
        "bytes_from_client": session.bytes_from_client,
        "bytes_to_client": session.bytes_to_client,
        "controller": socket.gethostname(),
        "pid": os.getpid(),
    }


def _choose(found: dict[str, Record], record: Record) -> None:
    """Add a record, unless the same session is there with a connection: who lost it may not know yet."""
    known = found.get(record["id"])
    if known is None or known.get("state") == "waiting":
        found[record["id"]] = record


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def _reason(request: Request) -> str:
    if "json" not in request.headers.get("content-type", ""):
        return request.form().get("reason", "")[:LONGEST_REASON]
    try:
        return str(json.loads(request.body or b"{}").get("reason") or "")[:LONGEST_REASON]
    except (ValueError, AttributeError) as error:
        raise BadRequest('the body must be JSON such as {"reason": "maintenance"}') from error


def _answer(record: Record) -> Response:
    return Response(200, json.dumps(record).encode() + b"\n")
