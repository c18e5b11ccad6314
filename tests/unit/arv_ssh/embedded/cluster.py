"""An embedded API on a fresh database, with three users, for the tests of its modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from arv_ssh.api.client import ApiClient
from arv_ssh.api.in_process import InProcessAdapter
from arv_ssh.config.cluster_config import ClusterConfig, parse
from arv_ssh.embedded.api import EmbeddedApi

ROOT_TOKEN = "systemusertesttoken1234567890aoeuidhtnsqjkxbmwvzpy"
ADMIN = "zzzzz-tpzed-d9tiejq69daie8f"
ACTIVE = "zzzzz-tpzed-xurymjxw79nv3jz"
SPECTATOR = "zzzzz-tpzed-l1s2piq4t4mps8r"
WORK: dict[str, Any] = {
    "state": "Committed",
    "priority": 500,
    "command": ["sleep", "600"],
    "container_image": "arv-ssh/busybox:test",
    "cwd": "/",
    "output_path": "/tmp",
    "runtime_constraints": {"vcpus": 1, "ram": 100_000_000},
}


def sqlite_url(directory: Path) -> str:
    """Return the URL of a database in ``directory``."""
    return f"sqlite:///{directory}/db.sqlite"


def cluster_config(database: str) -> ClusterConfig:
    """Return the config of a cluster with the database at a URL."""
    return parse("zzzzz", {"SystemRootToken": ROOT_TOKEN, "EmbeddedAPI": {"Database": database}})


class Cluster:
    """The API, and a client for each of its users."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.api = EmbeddedApi(cluster_config(database))
        self.root = self.client(ROOT_TOKEN)
        for uuid, username in ((ADMIN, "admin"), (ACTIVE, "active"), (SPECTATOR, "spectator")):
            user = {"uuid": uuid, "username": username, "email": f"{username}@example.com"}
            self.root.create("users", user | {"is_admin": uuid == ADMIN})
        self.admin, self.active, self.spectator = (self.client(self.token(u)) for u in (ADMIN, ACTIVE, SPECTATOR))

    def client(self, token: str) -> ApiClient:
        """Return a client with ``token``."""
        return ApiClient("https://embedded.invalid", token, adapter=InProcessAdapter(self.api.handle))

    def token(self, user_uuid: str, **attributes: Any) -> str:
        """Return a fresh v2 token of a user."""
        made = self.root.create("api_client_authorizations", {"owner_uuid": user_uuid, **attributes})
        return f"v2/{made['uuid']}/{made['api_token']}"

    def call(
        self,
        method: str,
        path: str,
        fields: Any = None,
        *,
        token: str = ROOT_TOKEN,
        headers: Any = None,
        body: Any = None,
    ) -> tuple[int, dict[str, Any]]:
        """Call the API as an HTTP request would: ``fields`` in the query, ``body`` as it is or as JSON."""
        sent = {"authorization": f"Bearer {token}"} if token else {}
        if body is not None and not isinstance(body, bytes):
            body, sent["content-type"] = json.dumps(body).encode(), "application/json"
        answer = self.api.handle(method, path, urlencode(fields or {}), sent | (headers or {}), body or b"")
        return answer.status, json.loads(answer.body)

    def submit(self, client: ApiClient | None = None, **attributes: Any) -> dict[str, Any]:
        """Submit a committed request (as the active user) that shares its container with no other; return it."""
        return (client or self.active).create("container_requests", {**WORK, "use_existing": False, **attributes})

    def container(self, state: str, client: ApiClient | None = None, **attributes: Any) -> str:
        """Return the UUID of a fresh container in ``state``."""
        uuid = str(self.submit(client, **attributes)["container_uuid"])
        self.bring(uuid, state)
        return uuid

    def bring(self, uuid: str, state: str) -> None:
        """Bring a Queued container to ``state``."""
        if state != "Queued":
            self.root.lock(uuid)
        if state in ("Running", "Complete"):
            self.root.update("containers", uuid, {"state": "Running", "gateway_address": "127.0.0.1:1"})
        if state in ("Complete", "Cancelled"):
            self.root.update("containers", uuid, {"state": state, "exit_code": 0 if state == "Complete" else None})

    def container_client(self, uuid: str) -> ApiClient:
        """Return a client with a locked container's own token."""
        auth = self.root.container_auth(uuid)
        return self.client(f"v2/{auth['uuid']}/{auth['api_token']}")
