"""The embedded API: an Arvados-compatible API of one small cluster, kept in a database of its own.

Owns the transaction around each call and the shape of errors. :mod:`arv_ssh.embedded.routes` knows the paths, and the
rules are in the modules beside it. Knows no socket: the controller's HTTP server and, inside the same process,
:class:`arv_ssh.api.in_process.InProcessAdapter` call :meth:`EmbeddedApi.handle`.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.embedded import discovery, params, public, tokens
from arv_ssh.embedded.call import Call, root_user_uuid
from arv_ssh.embedded.models import User
from arv_ssh.embedded.routes import PREFIX, ApiRequest, Fields
from arv_ssh.embedded.store import Store
from arv_ssh.errors import HttpError
from arv_ssh.log import event

logger = logging.getLogger(__name__)


LONGEST_ERROR = 1000
"""Characters of an error: some quote what a client sent, which can be 8 MB."""


@dataclass(frozen=True)
class ApiAnswer:
    """An answer: an HTTP status and a JSON body."""

    status: int
    body: bytes


class EmbeddedApi:
    """The API of ``config``'s cluster over ``config.database``, which is made when it does not exist. Thread-safe."""

    def __init__(self, config: ClusterConfig) -> None:
        assert config.database is not None  # noqa: S101 - for mypy: the controller has seen to it
        self._config = config
        self._store = Store(config.database)
        self._ensure_root()

    def _ensure_root(self) -> None:
        uuid, now = root_user_uuid(self._config.cluster_id), datetime.now(UTC)
        with self._store.write() as session:
            if session.get(User, uuid) is None:
                session.add(User(uuid=uuid, owner_uuid=uuid, created_at=now, modified_at=now, username="root",
                                 first_name="root", is_admin=True))  # fmt: skip

    def listen(self, heard: Callable[[], None]) -> None:
        """Call ``heard``, on a thread, whenever a dispatcher has something to look at, by whichever process."""
        self._store.listen(heard)

    def close(self) -> None:
        """Close the database."""
        self._store.close()

    def serves(self, path: str) -> bool:
        """Say whether requests for ``path`` are for this API."""
        return path.startswith((PREFIX, discovery.PATH))

    def handle(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> ApiAnswer:
        """Answer one request; ``headers`` has lower-case names. Blocks on the database; never raises."""
        request_id = headers.get("x-request-id", "")[:64]
        try:
            method, fields, is_form = params.read(method, query, headers, body)
            status, answer = 200, public.answer(method, path, self._config, headers) or self._transact(
                method, path, headers, fields, is_form
            )
        except HttpError as error:
            status, answer = error.status, _error(str(error), request_id)
        except Exception:
            logger.exception("call failed", extra={"fields": {"request_id": request_id, "method": method}})
            status = 500
            answer = _error("unexpected error in the API; its log says more", request_id)
        return ApiAnswer(status, json.dumps(answer).encode() + b"\n")

    def _transact(self, method: str, path: str, headers: Mapping[str, str], fields: Fields, is_form: bool) -> Fields:
        transaction = self._store.read() if method == "GET" else self._store.write()
        with transaction as session:
            call = Call(session, tokens.authenticate(session, self._config, headers), self._config, fields)
            tokens.check_usable(call, method, path)
            return ApiRequest(call, method, path, fields, is_form).answer()


def _error(message: str, request_id: str) -> Fields:
    """Return the body of an error in Arvados' shape; the ``error_token`` is there to search the log for."""
    if len(message) > LONGEST_ERROR:
        message = f"{message[:LONGEST_ERROR]}…"
    token = f"{int(time.time())}+{secrets.token_hex(4)}"
    event(logger, "call refused", level=logging.DEBUG, error=message, error_token=token, request_id=request_id)
    answer: Fields = {"errors": [message], "error_token": token}
    return answer | {"request_id": request_id} if request_id else answer
