"""Live revocation: while a session is open, its user's right to it is checked again and again.

Owns when the API is asked, for how little, and which answers end a session. The decisions belong to
:mod:`arv_ssh.trust.access`, the ending to :mod:`arv_ssh.controller.shell.endings`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from arv_ssh.api.client import ApiClient
from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.controller.shell import endings
from arv_ssh.controller.shell.sessions import CLIENT_LEFT, CONTAINER_ENDED, REVOKED, LiveConnection, Sessions
from arv_ssh.errors import (
    BadGateway,
    ContainerEnded,
    Forbidden,
    GatewayTimeout,
    HttpError,
    NotFound,
    Unauthorized,
    Unavailable,
)
from arv_ssh.log import event
from arv_ssh.trust import access

logger = logging.getLogger(__name__)

PERIOD = 10.0
"""Seconds between two looks: with the time that a look and an ending take, a session ends within 30 s of its cause."""
API_GRACE = 600.0
"""Seconds for which sessions go on while the API cannot be reached to check them."""
SILENCE = 30.0
"""Seconds in which a client must begin to speak SSH; the gateway has the same patience for the login."""
THREADS = 4
"""Calls to the API under way at once: the looks are spread out, and logins do not wait for them."""
STRAGGLER = 5.0
"""Seconds that a look waits for one token's answers; later ones count when they come, and do not delay other
tokens'."""
HUNG = 120.0
"""Seconds after which a question is given up: an API that sends a byte now and then never meets a socket's time-out."""
BATCH = 100
"""UUIDs in one filter."""

Record = dict[str, Any]


@dataclass(frozen=True)
class View:
    """The API's answer about one token: its user, and which of the containers asked about that user can read."""

    user: Record
    containers: dict[str, Record]


class Revocation:
    """Watches ``sessions`` and ends those that may not go on, by ``config``, which may be replaced.

    A look that gets no answer, for whatever reason, does not end a session at once; the session ends :data:`API_GRACE`
    after the last answer. ``api`` is asked as each session's user, or as root for records that the user may not see.
    """

    def __init__(self, config: ClusterConfig, api: ApiClient, sessions: Sessions) -> None:
        self.config = config
        self._api = api
        self._root = api.with_token(config.system_root_token)
        self._sessions = sessions
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="revocation")
        self._look_now = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: dict[str, asyncio.Task[None]] = {}  # by token: the looks not yet finished

    def start(self) -> None:
        """Begin to look every :data:`PERIOD` seconds."""
        self._keep(asyncio.create_task(self._run()))

    def close(self) -> None:
        """Stop looking."""
        for task in self._tasks:
            task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def look_now(self) -> None:
        """Look at all sessions without waiting for the next turn."""
        self._look_now.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(PERIOD):
                    await self._look_now.wait()
            except TimeoutError:
                pass  # the next turn has come
            self._look_now.clear()
            try:
                await self.look()
            except Exception as error:  # one failed look must not be the last
                failure = _no_answer(error)
                for session in self._sessions:
                    self._bear(session, failure)

    async def look(self) -> None:
        """Look once whether each session may go on; return when the looks are over, or late (:data:`STRAGGLER`)."""
        by_token: dict[str, list[LiveConnection]] = defaultdict(list)
        for session in self._sessions:
            if session.bytes_from_client == 0 and session.seconds > SILENCE and not session.resumed:
                self._end(session, CLIENT_LEFT, f"the client sent nothing for {SILENCE:g} s")
            elif not session.reason:
                by_token[session.token].append(session)
        if not by_token:
            return
        try:
            access.check_enabled(self.config.shell_access)
        except Unavailable as disabled:
            for session in self._sessions:
                self._end(session, REVOKED, str(disabled))
            return
        requests = await self._ask(self._requests, {session.container_uuid for session in self._sessions})
        looks = [
            self._under_way.get(token) or self._begin_look(token, group, requests)
            for token, group in by_token.items()
        ]
        await asyncio.wait(looks, timeout=STRAGGLER)

    def _begin_look(
        self, token: str, group: list[LiveConnection], requests: dict[str, list[Record]] | HttpError
    ) -> asyncio.Task[None]:
        look = asyncio.create_task(self._look_at(token, group, requests))
        self._under_way[token] = look
        look.add_done_callback(lambda _: self._under_way.pop(token))
        self._keep(look)
        return look

    async def _look_at(
        self, token: str, group: list[LiveConnection], requests: dict[str, list[Record]] | HttpError
    ) -> None:
        view = await self._ask(self._view, token, {session.container_uuid for session in group})
        for session in group:
            try:
                if isinstance(requests, HttpError):
                    raise requests
                if isinstance(view, HttpError):
                    raise view
                self._check(session, view, requests)
                session.checked = time.monotonic()
            except ContainerEnded as ended:
                self._end(session, CONTAINER_ENDED, str(ended))
            except (Unauthorized, Forbidden, NotFound) as refusal:
                self._end(session, REVOKED, str(refusal))
            except Exception as error:  # one session's odd answer must not spare the others a look
                self._bear(session, error if isinstance(error, HttpError) else _no_answer(error))

    def _check(self, session: LiveConnection, view: View, requests: dict[str, list[Record]]) -> None:
        """Raise why ``session`` may not go on."""
        uuid = session.container_uuid
        access.check_active(view.user)
        user = access.user_uuid(view.user)
        if user != session.user_uuid:
            raise Forbidden(f"your token is now that of another user ({user})")
        container = view.containers.get(uuid)
        if container is None:
            raise NotFound(f"you may not read container {uuid} any more")
        state = container.get("state")
        if state in access.ENDED:
            access.check_state(container)
        if state != "Running":
            raise ContainerEnded(f"container {uuid} is not running any more (it is {state})")
        access.check_allowed(self.config.shell_access, view.user, container, requests.get(uuid, []))

    def _bear(self, session: LiveConnection, failure: HttpError) -> None:
        """Let a session go on for a time although the API could not be asked."""
        event(logger, "cannot check whether a session may continue", level=logging.WARNING, session_id=session.id,
              request_id=session.request_id, error=str(failure))  # fmt: skip
        if time.monotonic() - session.checked > API_GRACE:
            sentence = f"for {API_GRACE / 60:g} min the API could not say whether it may continue: {failure}"
            self._end(session, REVOKED, sentence)

    def _end(self, session: LiveConnection, reason: str, sentence: str) -> None:
        token = self.config.system_root_token
        self._keep(asyncio.create_task(endings.end(session, reason, sentence, token)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, call: Any, *arguments: Any) -> Any:
        """Return the result of one of the threads' questions; a failure is an answer, too."""
        try:
            async with asyncio.timeout(HUNG):
                return await asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)
        except TimeoutError:
            return GatewayTimeout(f"the API has not answered for {HUNG:g} s")
        except Exception as error:  # in the thread pool, where it would be lost
            return error if isinstance(error, HttpError) else _no_answer(error)

    # The threads' questions.

    def _view(self, token: str, uuids: set[str]) -> View:
        as_user = self._api.with_token(token)
        user = as_user.current_user()
        access.check_scopes(as_user.get("api_client_authorizations", "current"), "entering containers")
        containers: dict[str, Record] = {}
        for batch in _batches(uuids):
            filters = [["uuid", "in", batch]]
            for record in as_user.list_all("containers", filters=filters, select=CONTAINER_ATTRIBUTES):
                containers[record["uuid"]] = record
        return View(user, containers)

    def _requests(self, uuids: set[str]) -> dict[str, list[Record]]:
        """Return the requests that each container serves, seen as root."""
        found: dict[str, list[Record]] = defaultdict(list)
        try:
            for batch in _batches(uuids):
                for request in self._requests_of(batch):
                    found[request["container_uuid"]].append(request)
        except (Unauthorized, Forbidden) as error:  # about root: it says nothing about any user
            raise Unavailable(str(error)) from error
        return found

    def _requests_of(self, uuids: list[str]) -> list[Record]:
        """Return a batch's requests; where there are too many, find the container that has them, for its own sake."""
        found = self._root.list_all(
            "container_requests",
            filters=[["container_uuid", "in", uuids]],
            select=access.request_attributes(embedded=self.config.api is None),
            most=access.MOST_REQUESTS,
        )
        if len(found) <= access.MOST_REQUESTS or len(uuids) == 1:
            return found
        half = len(uuids) // 2
        return self._requests_of(uuids[:half]) + self._requests_of(uuids[half:])


CONTAINER_ATTRIBUTES = ["uuid", "state", "runtime_constraints", "runtime_user_uuid", "exit_code", "finished_at"]
"""The attributes asked for: records are large, and only these matter for the decision."""


def _batches(uuids: set[str]) -> list[list[str]]:
    ordered = sorted(uuids)
    return [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]


def _no_answer(error: Exception) -> HttpError:
    """Log an unforeseen exception, and return it as one of the API's failures: it decides nothing."""
    logger.error("cannot check whether sessions may continue", exc_info=error)
    return BadGateway(f"the API's answer cannot be used ({type(error).__name__})")
