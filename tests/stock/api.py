"""A double of a real Arvados API: records in memory behind HTTPS, with the ways of the real one.

It differs from the embedded API where the real one does: containers have no ``properties`` and an attribute that does
not exist is a 422; a list is cut at ``MAX_ITEMS`` however much was asked for, and ``items_available`` says how many
there are; errors carry the text of the server behind, with its URL before it, and an ``error_token``; a token may come
as ``v2/uuid/secret``, as the bare secret, or as another cluster's token, which is known whole.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qs, urlsplit

MAX_ITEMS = 2
"""MaxItemsPerResponse of this site: small, so that a handful of records are several pages."""
Record = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """A request as it came; header names are lower-case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Failure:
    """What to answer instead, ``times`` times, to requests of ``method`` whose path begins with ``path``."""

    method: str
    path: str
    status: int
    text: str
    times: int = 1


@dataclass
class StockApi:
    """What the API holds, and what it was asked."""

    users: dict[str, Record] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    containers: dict[str, Record] = field(default_factory=dict)
    requests: dict[str, Record] = field(default_factory=dict)
    readable: set[tuple[str, str]] = field(default_factory=set)
    container_tokens: dict[str, str] = field(default_factory=dict)
    """The containers of the tokens that crunch-runs were given, by their secrets."""
    failures: list[Failure] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    def add_user(self, uuid: str, *tokens: str, is_admin: bool = False) -> None:
        """Add a user who is known by ``tokens``: bare secrets, or another cluster's tokens as they are."""
        self.users[uuid] = {"uuid": uuid, "kind": "arvados#user", "is_admin": is_admin, "is_active": True}
        self.tokens.update(dict.fromkeys(tokens, uuid))

    def add_container(self, uuid: str, gateway_address: str, readers: set[str], **attributes: Any) -> None:
        """Add a Running container with all the attributes that the real one has."""
        empty: Record = dict.fromkeys((
            "auth_uuid", "exit_code", "finished_at", "locked_by_uuid", "log", "modified_by_client_uuid", "output",
            "progress", "runtime_auth_scopes", "runtime_user_uuid",
        ))  # fmt: skip
        self.containers[uuid] = empty | {
            "uuid": uuid, "kind": "arvados#container", "etag": "4n6fzvzqxdcrwkk8d4fcrn6ln",
            "href": f"/containers/{uuid}", "owner_uuid": f"{uuid[:5]}-tpzed-000000000000000", "state": "Running",
            "command": ["sleep", "1000000"], "container_image": "fa3c1a9cb6783f85f2ecda037e07b8c3+167", "cwd": ".",
            "environment": {}, "mounts": {}, "output_path": "/tmp", "output_properties": {},
            "output_storage_classes": ["default"], "priority": 562948349145881771, "lock_count": 1,
            "runtime_constraints": {"API": False, "keep_cache_ram": 0, "ram": 268435456, "vcpus": 1, "cuda": {}},
            "runtime_status": {}, "scheduling_parameters": {}, "secret_mounts_md5": "99914b932bd37a50b983c5e7c90ae93b",
            "cost": 0.0, "subrequests_cost": 0.0, "gateway_address": gateway_address,
            "interactive_session_started": False, "created_at": "2026-11-25T01:02:03.456789000Z",
            "started_at": "2026-11-25T01:02:13.456789000Z", "modified_at": "2026-11-25T01:02:13.456789000Z",
        } | attributes  # fmt: skip
        self.readable |= {(reader, uuid) for reader in readers}

    def add_request(self, uuid: str, container_uuid: str, submitter: str) -> None:
        """Add a request that a container serves."""
        self.requests[uuid] = {
            "uuid": uuid, "kind": "arvados#containerRequest", "container_uuid": container_uuid,
            "modified_by_user_uuid": submitter, "state": "Committed",
        }  # fmt: skip

    def asked(self, method: str, path: str) -> list[Seen]:
        """Return the requests of ``method`` for ``path`` that came so far."""
        return [seen for seen in self.seen if (seen.method, seen.path) == (method, path)]


class _Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.seen = Seen(self.command, target.path, target.query, headers, body)
        self.server.api.seen.append(self.seen)
        try:
            self._send(200, self._find())
        except _Refused as refused:
            where = f"//railsapi.internal{target.path}"
            reason = {401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 422: "Unprocessable Entity"}
            text = f"{where}: {refused.status} {reason.get(refused.status, 'Error')}: {refused}"
            self._send(refused.status, {"errors": [text], "error_token": "1764000000+0a1b2c3d"})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def _send(self, status: int, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Request-Id", self.headers.get("X-Request-Id") or "req-1k2v3a4d5o6s7x8y9z0a")
        self.end_headers()
        self.wfile.write(content)

    def _find(self) -> Any:
        api, path = self.server.api, self.seen.path
        for failure in api.failures:
            if failure.times and failure.method == self.seen.method and path.startswith(failure.path):
                failure.times -= 1
                raise _Refused(failure.status, failure.text)
        user = self._user()
        parts = path.removeprefix("/arvados/v1/").split("/")
        if parts == ["users", "current"]:
            return user
        if parts == ["api_client_authorizations", "current"]:
            return {"uuid": "zzzzz-gj3su-077z32aux8dg2s1", "scopes": ["all"], "expires_at": None}
        if parts[0] == "containers" and parts[2:] == ["auth"]:
            return self._auth(user, parts[1])
        if parts[0] == "containers" and len(parts) == 2:
            return self._container(user, parts[1])
        if parts == ["container_requests"] and self.seen.method == "GET":
            return self._list(user)
        if parts[0] == "container_requests" and parts[1] in api.requests:
            return {"saved log": path} if parts[2:3] == ["log"] else api.requests[parts[1]]
        raise _Refused(404, "Path not found (req-1k2v3a4d5o6s7x8y9z0a)")

    def _user(self) -> Record:
        api = self.server.api
        scheme, _, token = self.seen.headers.get("authorization", "").partition(" ")
        secret = token.split("/")[-1] if token.startswith("v2/zzzzz-") else token
        if scheme == "Bearer" and secret in api.container_tokens:
            return {"uuid": "zzzzz-tpzed-000000000000000", "is_admin": False, "runs": api.container_tokens[secret]}
        if scheme not in ("Bearer", "OAuth2") or secret not in api.tokens:
            raise _Refused(401, "Not logged in (req-1k2v3a4d5o6s7x8y9z0a)")
        return api.users[api.tokens[secret]]

    def _container(self, user: Record, uuid: str) -> Record:
        container = self.server.api.containers.get(uuid)
        known = user["is_admin"] or user.get("runs") == uuid or (user["uuid"], uuid) in self.server.api.readable
        if container is None or not known:
            raise _Refused(404, "Path not found (req-1k2v3a4d5o6s7x8y9z0a)")
        if self.seen.method in ("PATCH", "PUT"):
            if not (user["is_admin"] or user.get("runs") == uuid):
                raise _Refused(403, "#<ArvadosModel::PermissionDeniedError: ArvadosModel::PermissionDeniedError>")
            changes = self.seen.json["container"]
            if "gateway_address" in changes and changes.get("state", container["state"]) != "Running":
                raise _Refused(422, "gateway_address cannot be modified in state " + str(container["state"]))
            for name in changes:
                if name not in container:
                    raise _Refused(
                        422, f"#<ActiveModel::UnknownAttributeError: unknown attribute '{name}' for Container.>"
                    )
            container.update(changes)
        return container

    def _auth(self, user: Record, uuid: str) -> Record:
        """Give the token of a container to whoever locked it."""
        if not user["is_admin"] or self.server.api.containers[uuid]["state"] not in ("Locked", "Running"):
            raise _Refused(403, "Not locked by your token")
        secret = next((one for one, its in self.server.api.container_tokens.items() if its == uuid), token_hex(20))
        self.server.api.container_tokens[secret] = uuid
        return {"uuid": "zzzzz-gj3su-" + uuid[-15:], "api_token": secret}

    def _list(self, user: Record) -> Record:
        given = {name: values[0] for name, values in parse_qs(self.seen.query).items()}
        found = sorted(self.server.api.requests.values(), key=lambda record: str(record["uuid"]))
        for attribute, operator, operand in json.loads(given.get("filters", "[]")):
            assert operator in ("=", ">")
            found = [
                record for record in found
                if (record[attribute] == operand if operator == "=" else record[attribute] > operand)
            ]  # fmt: skip
        if not user["is_admin"]:
            found = [record for record in found if record["modified_by_user_uuid"] == user["uuid"]]
        limit = min(int(given.get("limit", 100)), MAX_ITEMS)
        shown = json.loads(given["select"]) if "select" in given else None
        items = [
            {name: value for name, value in record.items() if shown is None or name in shown}
            for record in found[:limit]
        ]
        listing = {"kind": "arvados#containerRequestList", "offset": 0, "limit": limit, "items": items}
        return listing if given.get("count") == "none" else listing | {"items_available": len(found)}

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    api: StockApi

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients may leave."""


@contextmanager
def stock_api(certificate: Path, key: Path, port: int = 0) -> Iterator[StockApi]:
    """Run the double on ``port`` (0: a free one) of 127.0.0.1 with a TLS certificate, until the end of the block."""
    api = StockApi()
    server = _Server(("127.0.0.1", port), _Handler)
    server.api = api
    api.url = f"https://127.0.0.1:{server.server_port}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
