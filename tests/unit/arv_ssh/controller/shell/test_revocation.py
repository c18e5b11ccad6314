"""Which answers of the API end an open session, and how little the API is asked."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from operator import itemgetter
from typing import Any
from urllib.parse import parse_qs

import pytest

from arv_ssh.api.client import PAGE, ApiClient
from arv_ssh.api.in_process import InProcessAdapter
from arv_ssh.config import cluster_config
from arv_ssh.config.cluster_config import ShellAccess
from arv_ssh.controller.shell import endings, revocation
from arv_ssh.controller.shell.revocation import Revocation
from arv_ssh.controller.shell.sessions import CLIENT_LEFT, CONTAINER_ENDED, REVOKED, LiveConnection, Sessions
from arv_ssh.embedded.api import ApiAnswer
from tests.timing import DEADLINE
from tests.unit.arv_ssh.controller.sessions import CONTAINER, TOKEN, USER, session
from tests.unit.arv_ssh.streams import Wire

ROOT = "roottoken"
ACCESS = {"Admin": True, "User": True}
CONFIG = cluster_config.parse(
    "zzzzz", {"SystemRootToken": ROOT, "API": "https://api.invalid", "Containers": {"ShellAccess": ACCESS}}
)


class Api:
    """An API whose answers are (status, JSON) by path; lists give the items that the filter's UUIDs select."""

    def __init__(self) -> None:
        self.user: dict[str, Any] = {"uuid": USER, "is_active": True, "is_admin": False}
        self.token: dict[str, Any] = {"scopes": ["all"]}
        self.containers: list[Any] = [
            {"uuid": CONTAINER, "state": "Running", "runtime_constraints": {}, "gateway_address": "h:1"}
        ]
        self.requests: list[Any] = [
            {"uuid": "zzzzz-xvhdp-abcdeabcdeabcde", "container_uuid": CONTAINER, "modified_by_user_uuid": USER}
        ]
        self.all = False  # whatever was asked for
        self.failures: dict[str, tuple[int, str]] = {}
        self.calls: Counter[str] = Counter()

    def handle(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> ApiAnswer:
        name = path.removeprefix("/arvados/v1/")
        self.calls[name] += 1
        assert headers["authorization"] == f"Bearer {ROOT if name == 'container_requests' else TOKEN}"
        if name in self.failures:
            status, text = self.failures[name]
            return ApiAnswer(status, json.dumps({"errors": [text]}).encode())
        answers = {"users/current": self.user, "api_client_authorizations/current": self.token}
        return ApiAnswer(200, json.dumps(answers.get(name) or self._page(name, query or body.decode())).encode())

    def _page(self, name: str, query: str) -> dict[str, Any]:
        filters = json.loads(parse_qs(query)["filters"][0])
        (attribute, _, uuids), after = filters[0], filters[1:]
        items = self.containers if name == "containers" else self.requests
        if self.all:
            return {"items": items}
        last = after[0][2] if after else ""
        found = [item for item in items if item[attribute] in uuids and item["uuid"] > last]
        return {"items": sorted(found, key=itemgetter("uuid"))[:PAGE]}


class Scene:
    """Sessions of one user in one container, watched; ``ended`` is what was told to end and why."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.api = Api()
        self.sessions = Sessions()
        self.ended: list[tuple[str, str]] = []
        self.policy = CONFIG.shell_access

        async def end(one: LiveConnection, reason: str, sentence: str, root_token: str) -> None:
            assert root_token == ROOT
            one.reason = one.reason or reason
            self.ended.append((reason, sentence))

        monkeypatch.setattr(endings, "end", end)

    def watch(self) -> Revocation:
        client = ApiClient("https://api.invalid", "", adapter=InProcessAdapter(self.api.handle))
        return Revocation(replace(CONFIG, shell_access=self.policy), client, self.sessions)

    def look(self, *live: LiveConnection, early: bytes = b"SSH-2.0-client\r\n") -> list[tuple[str, str]]:
        """Open the sessions, look once, and return what was ended."""

        async def scenario() -> None:
            for one in live or (session(),):
                self.sessions.run(one, (Wire(), early), (Wire(), b""))
            watch = self.watch()
            await watch.look()
            while watch._tasks:
                await asyncio.gather(*watch._tasks)
            watch.close()

        asyncio.run(asyncio.wait_for(scenario(), DEADLINE))
        return self.ended


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_a_session_that_may_go_on(scene: Scene) -> None:
    """Nothing happens to a session that could be opened anew; when that was seen is noted."""
    live = session(checked=0.0)
    assert scene.look(live) == []
    assert live.checked > 0


@pytest.mark.parametrize("path", ["users/current", "api_client_authorizations/current", "containers"])
def test_a_token_that_is_valid_no_more(scene: Scene, path: str) -> None:
    """The API's 401 ends the session with the API's own sentence."""
    scene.api.failures[path] = 401, "the API token expired"
    assert scene.look() == [(REVOKED, "the API token expired")]


def test_how_long_a_lost_right_lasts_at_most() -> None:
    """The pause between two looks and the patience of an ending leave a session no more than the 30 s promised."""
    assert revocation.PERIOD + revocation.STRAGGLER + endings.GATEWAY_PATIENCE + 2 * endings.CLIENT_PATIENCE <= 30


def test_a_token_that_was_limited(scene: Scene) -> None:
    """A token whose scopes do not cover everything any more ends the session."""
    scene.api.token = {"scopes": ["GET /arvados/v1/"]}
    (reason, sentence), = scene.look()
    assert reason == REVOKED and "limited" in sentence


def test_a_token_without_scopes(scene: Scene) -> None:
    """An answer that says nothing of scopes ends the session: it is not known to be good for one."""
    scene.api.token = {"uuid": "zzzzz-gj3su-000000000000000"}
    (reason, sentence), = scene.look()
    assert reason == REVOKED and "limited" in sentence


@pytest.mark.parametrize(
    "answer",
    [
        {"user": {"is_active": True}}, {"user": {"uuid": None, "is_active": True}},
        {"user": {"uuid": USER}}, {"user": {"uuid": USER, "is_active": "yes"}}, {"user": {"uuid": [USER]}},
        {"token": {"scopes": None}}, {"token": {"scopes": "all"}}, {"token": {"scopes": {"all": True}}},
        {"containers": [{"uuid": CONTAINER}]}, {"containers": [{"uuid": CONTAINER, "state": ["Running"]}]},
        {"containers": [{"uuid": CONTAINER, "state": "Running"}]},
        {"containers": [{"uuid": CONTAINER, "state": "Running", "runtime_constraints": None}]},
        {"containers": [{"uuid": CONTAINER, "state": "Complete", "finished_at": 1}]},
        {"requests": []}, {"requests": [{"uuid": "x", "container_uuid": CONTAINER}]},
        {"requests": [{"uuid": "x", "container_uuid": CONTAINER, "modified_by_user_uuid": {}}]},
    ],
    ids=str,
)  # fmt: skip
def test_an_answer_that_lacks_something(scene: Scene, answer: dict[str, Any]) -> None:
    """A record without what decides, or with something else in its place, ends the session: no right is known."""
    vars(scene.api).update(answer)
    assert len(scene.look()) == 1


@pytest.mark.parametrize(
    "answer",
    [{"containers": [CONTAINER]}, {"containers": [{}]}, {"requests": [{"uuid": "x"}]}, {"requests": [None]}],
    ids=str,
)
def test_an_answer_that_is_none(scene: Scene, answer: dict[str, Any]) -> None:
    """A list of something else says nothing of anybody: sessions go on for a time, not for ever."""
    vars(scene.api).update(answer)
    scene.api.all = True
    recent = session()
    long_ago = session(checked=time.monotonic() - revocation.API_GRACE - 1)
    (reason, sentence), = scene.look(recent, long_ago)
    assert reason == REVOKED and "10 min" in sentence
    assert long_ago.reason and not recent.reason


def test_a_container_of_very_many_requests(scene: Scene) -> None:
    """It ends its own sessions, and neither delays the look at others nor costs many calls."""
    busy, good = session(container_uuid="zzzzz-dz642-zzzzzzzzzzzzzzz"), session(checked=0.0)
    scene.api.containers.append(scene.api.containers[0] | {"uuid": busy.container_uuid})
    scene.api.requests += [
        scene.api.requests[0] | {"container_uuid": busy.container_uuid, "uuid": f"zzzzz-xvhdp-{number:015d}"}
        for number in range(3000)
    ]
    (reason, sentence), = scene.look(busy, good)
    assert reason == REVOKED and busy.container_uuid in sentence and "more than 2000 requests" in sentence
    assert good.checked > 0 and not good.reason and scene.api.calls["container_requests"] <= 12


def test_lost_read_permission(scene: Scene) -> None:
    """A container that the user cannot read any more ends the session."""
    scene.api.containers = []
    assert scene.look() == [(REVOKED, f"you may not read container {CONTAINER} any more")]


def test_the_decision_table(scene: Scene) -> None:
    """A request of somebody else for the same container, or a stricter table, ends the session."""
    scene.api.requests.append(scene.api.requests[0] | {"modified_by_user_uuid": "zzzzz-tpzed-000000000000000"})
    (reason, sentence), = scene.look()
    assert reason == REVOKED and "requests that other users submitted" in sentence


def test_an_administrator_no_more(scene: Scene) -> None:
    """Administrators keep their sessions as long as they are that, and the table lets them in."""
    scene.policy = ShellAccess("default-on", admin=True, user=False)
    scene.api.user["is_admin"] = True
    assert scene.look() == []
    scene.api.user["is_admin"] = False
    assert [reason for reason, _ in scene.look()] == [REVOKED, REVOKED]


@pytest.mark.parametrize("admin", [False, True])
def test_a_user_who_was_deactivated(scene: Scene, admin: bool) -> None:
    """A deactivated user's sessions end, though the API still answers and an administrator is still called one."""
    scene.api.user |= {"is_active": False, "is_admin": admin}
    assert scene.look() == [(REVOKED, f"user {USER} is not active; ask an administrator")]


def test_a_token_that_became_another_users(scene: Scene) -> None:
    """A session is its own user's; what another one may do gives no right to it."""
    scene.policy = ShellAccess("default-on", admin=True, user=True)
    scene.api.user |= {"uuid": "zzzzz-tpzed-000000000000000", "is_admin": True}
    assert scene.look() == [(REVOKED, "your token is now that of another user (zzzzz-tpzed-000000000000000)")]


def test_an_api_that_hangs_for_one_token(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token whose answer does not come holds up no other session's end, and is not asked again meanwhile."""
    monkeypatch.setattr(revocation, "STRAGGLER", 0.01)
    hang, asked = threading.Event(), threading.Semaphore(0)
    view = Revocation._view

    def slow(self: Revocation, token: str, uuids: set[str]) -> revocation.View:
        if token == "other":  # noqa: S105
            asked.release()
            hang.wait(DEADLINE)
        return view(self, TOKEN, uuids)

    monkeypatch.setattr(Revocation, "_view", slow)

    async def scenario() -> None:
        other, good = session(token="other"), session()  # noqa: S106
        for one in (other, good):
            scene.sessions.run(one, (Wire(), b"SSH-2.0-client\r\n"), (Wire(), b""))
        watch = scene.watch()
        await watch.look()
        scene.api.containers = []
        while not good.reason:  # on a slow machine its answer is late, too
            await watch.look()
            await asyncio.sleep(0)
        assert not other.reason, "nothing is known of the other's right yet"
        hang.set()
        while not other.reason:
            await asyncio.gather(*watch._tasks)
        watch.close()

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))
    assert asked.acquire(blocking=False) and not asked.acquire(blocking=False)


def test_an_api_that_hangs_for_good(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that never ends is one without an answer: the session's time runs out."""
    monkeypatch.setattr(revocation, "HUNG", 0.01)
    hang = threading.Event()
    monkeypatch.setattr(Revocation, "_view", lambda self, token, uuids: hang.wait(DEADLINE))
    long_ago = session(checked=time.monotonic() - revocation.API_GRACE - 1)
    try:
        (reason, sentence), = scene.look(long_ago)
    finally:
        hang.set()
    assert reason == REVOKED and "has not answered" in sentence


def test_disabled(scene: Scene) -> None:
    """With shell access disabled every session ends, and the API need not be asked."""
    scene.policy = ShellAccess("disabled", admin=True, user=True)
    (reason, sentence), other = scene.look(session(), session())
    assert reason == REVOKED and sentence.startswith("shell access is disabled on this cluster")
    assert other == (reason, sentence) and not scene.api.calls


@pytest.mark.parametrize(
    ("record", "sentence"),
    [({"state": "Complete", "exit_code": 3}, f"container {CONTAINER} has ended (Complete, exit 3)"),
     ({"state": "Cancelled"}, f"container {CONTAINER} has ended (Cancelled)"),
     ({"state": "Queued"}, f"container {CONTAINER} is not running any more (it is Queued)")],
)  # fmt: skip
def test_the_containers_end(scene: Scene, record: dict[str, Any], sentence: str) -> None:
    """A session whose container has ended, and whose gateway did not say so, is ended."""
    scene.api.containers[0].update(record)
    assert scene.look() == [(CONTAINER_ENDED, sentence)]


@pytest.mark.parametrize("path", ["users/current", "containers", "container_requests"])
@pytest.mark.parametrize("status", [422, 429, 500, 502, 503])
def test_an_api_that_fails_ends_nothing_for_a_time(scene: Scene, path: str, status: int) -> None:
    """Sessions go on while the API cannot answer, and end when that has lasted too long."""
    scene.api.failures[path] = status, "the database is away"
    recent = session()
    long_ago = session(checked=time.monotonic() - revocation.API_GRACE - 1)
    (reason, sentence), = scene.look(recent, long_ago)
    assert reason == REVOKED and "10 min" in sentence and "the database is away" in sentence
    assert long_ago.reason and not recent.reason


def test_roots_own_trouble_is_no_answer_about_a_user(scene: Scene) -> None:
    """A root token that the API refuses ends no session."""
    scene.api.failures["container_requests"] = 401, "the API token is not valid"
    assert scene.look() == []


def test_a_silent_client(scene: Scene) -> None:
    """A client that got its answer and never began to speak holds its session for half a minute at most."""
    assert scene.look(session(started=time.time()), early=b"") == []
    silent = session(started=time.time() - 31)
    assert scene.look(silent, early=b"") == [(CLIENT_LEFT, "the client sent nothing for 30 s")]


def test_a_client_that_fell_asleep(scene: Scene) -> None:
    """A session that came here by being resumed may be silent: its laptop was closed again."""
    assert scene.look(session(started=time.time() - 31, attempt=2), early=b"") == []


def test_a_thousand_sessions_cost_few_calls(scene: Scene) -> None:
    """The API is asked once for each token, and for many containers at once."""
    uuids = [f"zzzzz-dz642-{number:015d}" for number in range(200)]
    scene.api.containers = [scene.api.containers[0] | {"uuid": uuid} for uuid in uuids]
    scene.api.requests = [scene.api.requests[0] | {"container_uuid": uuid} for uuid in uuids]
    assert scene.look(*(session(container_uuid=uuid) for uuid in uuids for _ in range(5))) == []
    assert scene.api.calls.total() <= 12
