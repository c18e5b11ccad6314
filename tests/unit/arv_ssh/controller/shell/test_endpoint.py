"""The shell endpoint over an API of three records and a gateway in memory: what observers of sessions are told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.api.client import ApiClient
from arv_ssh.api.in_process import InProcessAdapter
from arv_ssh.config import cluster_config
from arv_ssh.config.cluster_config import Limits
from arv_ssh.controller.gateways import dial
from arv_ssh.controller.gateways.tunnels import Tunnels
from arv_ssh.controller.peers.peers import Peers
from arv_ssh.controller.shell.endpoint import ShellEndpoint
from arv_ssh.controller.shell.limits import SessionLimits
from arv_ssh.controller.shell.sessions import Sessions
from arv_ssh.embedded.api import ApiAnswer
from arv_ssh.errors import Forbidden, HttpError, SessionEnded, Unavailable
from arv_ssh.net.http_messages import Request, Upgrade
from arv_ssh.resume import negotiation
from arv_ssh.resume.negotiation import Grant
from arv_ssh.trust import access
from tests.timing import DEADLINE
from tests.unit.arv_ssh.controller.sessions import CONTAINER, TOKEN, USER, Transcript, session
from tests.unit.arv_ssh.streams import Wire

ROOT = "roottoken"
ACCESS = {"Admin": True, "User": True}
CONFIG = cluster_config.parse(
    "zzzzz", {"SystemRootToken": ROOT, "API": "https://api.invalid", "Containers": {"ShellAccess": ACCESS}}
)


class Api:
    """An API with one user, one token, one container and its request."""

    def __init__(self) -> None:
        self.records: dict[str, Any] = {
            "users/current": {"uuid": USER, "is_active": True, "is_admin": False},
            "api_client_authorizations/current": {"scopes": ["all"]},
            "containers/" + CONTAINER: {
                "uuid": CONTAINER, "state": "Running", "gateway_address": "10.0.0.7:34567",
                "interactive_session_started": True, "runtime_constraints": {},
            },
        }  # fmt: skip
        self.requests: Any = [
            {"uuid": "zzzzz-xvhdp-abcdeabcdeabcde", "container_uuid": CONTAINER, "modified_by_user_uuid": USER}
        ]
        self.answering = threading.Event()
        self.answering.set()
        self.asked = threading.Event()

    def handle(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> ApiAnswer:
        self.asked.set()
        assert self.answering.wait(DEADLINE)
        name = path.removeprefix("/arvados/v1/")
        if headers["authorization"] not in (f"Bearer {TOKEN}", f"Bearer {ROOT}"):
            return ApiAnswer(401, b'{"errors": ["the API token is not valid"]}')
        if name == "container_requests":
            requests, self.requests = self.requests, []
            return ApiAnswer(200, json.dumps({"items": requests}).encode())
        if name not in self.records:
            return ApiAnswer(404, b'{"errors": ["no such record"]}')
        return ApiAnswer(200, json.dumps(self.records[name]).encode())


class Scene:
    """An endpoint with an observer; ``gateway`` is what a dial gives, or raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.api = Api()
        self.sessions, self.transcript = Sessions(), Transcript()
        self.sessions.observe(self.transcript)
        self.limits = SessionLimits(Limits(), Path("/nonexistent"))
        self.gateway: Wire | HttpError = Wire()
        api = ApiClient("https://api.invalid", "", adapter=InProcessAdapter(self.api.handle))
        tunnels = Tunnels(CONFIG, Peers(Path("own.sock"), "", ()))
        self.endpoint = ShellEndpoint(CONFIG, api, self.sessions, self.limits, tunnels)
        monkeypatch.setattr(dial, "connect", self._connect)

    async def _connect(self, target: dial.Target) -> dial.GatewayConnection:
        if isinstance(self.gateway, HttpError):
            raise self.gateway
        return dial.GatewayConnection(self.gateway, b"", None)

    async def ask(self, uuid: str = CONTAINER, token: str = TOKEN, resume: str = "") -> Upgrade:
        headers = {"upgrade": "ssh", "authorization": f"Bearer {token}"}
        if resume:
            headers[negotiation.HEADER.lower()] = resume
        answer = await self.endpoint.handle(
            uuid, Request("POST", "", "", headers, b"login_username=crunch", "203.0.113.9", "req-1")
        )
        assert isinstance(answer, Upgrade)
        return answer


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(scenario, DEADLINE))


def test_a_session_is_told_from_beginning_to_end(scene: Scene) -> None:
    """opening comes before the answer, opened with it, closed at the end; the session says whose it is."""

    async def scenario() -> None:
        upgrade = await scene.ask()
        assert scene.transcript.lines == ["opening"] and len(scene.sessions) == 0
        client = Wire()
        upgrade.start(client, b"SSH-2.0-client\r\n")
        (live,) = scene.sessions
        assert (live.user_uuid, live.container_uuid, live.login_username) == (USER, CONTAINER, "crunch")
        assert (live.peer, live.request_id, live.token) == ("203.0.113.9", "req-1", TOKEN)
        client.lose()
        assert isinstance(scene.gateway, Wire)
        assert scene.gateway.written == b"SSH-2.0-client\r\n"
        scene.gateway.lose()

    run(scenario())
    assert scene.transcript.lines == ["opening", "opened", "closed client left"]


@pytest.mark.parametrize("token", [{}, {"scopes": None}, {"scopes": ["GET /"]}], ids=str)
def test_a_token_that_is_not_for_everything(scene: Scene, token: dict[str, Any]) -> None:
    """A token with other scopes than "all", or about whose scopes the API says nothing, opens no session."""
    scene.api.records["api_client_authorizations/current"] = token | {"uuid": "zzzzz-gj3su-000000000000000"}
    with pytest.raises(Forbidden, match="do not include entering containers"):
        run(scene.ask())
    assert scene.transcript.lines[-1].startswith("refused 403")


def test_what_is_known_of_a_refusal(scene: Scene) -> None:
    """A refusal is told with the container as it was asked for, and the user once the API has named one."""
    other = "zzzzz-dz642-zzzzzzzzzzzzzzz"
    with pytest.raises(HttpError):
        run(scene.ask("nonsense", token="wrong"))
    with pytest.raises(HttpError):
        run(scene.ask(other))
    first, second = scene.transcript.attempts
    assert (first.container_uuid, first.user_uuid, first.login_username) == ("nonsense", "", "crunch")
    assert (second.container_uuid, second.user_uuid, second.peer) == (other, USER, "203.0.113.9")
    assert scene.transcript.lines == [
        "refused 401 the API token is not valid",
        f"refused 404 container {other} was not found, or may not be read with this token: no such record",
    ]


def test_a_gateway_that_cannot_be_reached(scene: Scene) -> None:
    """A failed dial is a refusal, and the session never was opening."""
    scene.gateway = Unavailable("the gateway cannot be reached")
    with pytest.raises(Unavailable):
        run(scene.ask())
    assert scene.transcript.lines == ["refused 503 the gateway cannot be reached"]


def test_a_gateway_that_knows_nothing_of_going_on(scene: Scene) -> None:
    """Who asks an older gateway to go on with a session, be it another's, gets none, and does not end that one."""

    async def scenario() -> None:
        client, gateway = Wire(), Wire()
        others = session(user_uuid="zzzzz-tpzed-000000000000000", hold=600.0)
        scene.sessions.run(others, (client, b""), (gateway, b""))
        asked = Grant(others.id, "0" * 64, 600).request(1, 0)
        with pytest.raises(SessionEnded, match="can not go on"):
            await scene.ask(resume=asked)
        assert scene.sessions.get(others.id) is others
        assert isinstance(scene.gateway, Wire) and scene.gateway.is_closing()
        assert not client.is_closing() and not gateway.is_closing()

    run(scenario())


def test_killed_while_it_comes_back(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that is ended while the gateway lets it go on does not come back."""
    grant, gateway = Grant("ses-" + "1" * 20, "0" * 64, 600), Wire()

    async def connect(target: dial.Target) -> dial.GatewayConnection:
        scene.sessions.deny(grant.session, "an administrator ended this session")
        return dial.GatewayConnection(gateway, b"", None, resume=grant.answer(1, 0))

    monkeypatch.setattr(dial, "connect", connect)
    with pytest.raises(Forbidden, match="an administrator ended this session"):
        run(scene.ask(resume=grant.request(1, 0)))
    assert gateway.is_closing() and not len(scene.sessions)


def test_an_observer_refuses(scene: Scene) -> None:
    """An observer's refusal at opening is the client's answer, is told as one, and leaves the gateway."""
    scene.transcript.refusal = Unavailable("the audit cannot be written")
    with pytest.raises(Unavailable, match="audit"):
        run(scene.ask())
    assert scene.transcript.lines == ["opening", "refused 503 the audit cannot be written"]
    assert isinstance(scene.gateway, Wire) and scene.gateway.is_closing()


def test_a_client_that_does_not_wait(scene: Scene) -> None:
    """A client that leaves before its answer is told as a refusal too."""
    scene.api.answering.clear()

    async def scenario() -> None:
        asking = asyncio.create_task(scene.ask())
        await asyncio.to_thread(scene.api.asked.wait, DEADLINE)
        asking.cancel()
        await asyncio.wait([asking])
        scene.api.answering.set()

    run(scenario())
    assert scene.transcript.lines == ["refused 499 the client left before it got its answer"]


ODD: tuple[Any, ...] = (None, 0, 1, "", "true", [], {}, [[]], {"x": 1})


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ("users/current", "uuid"), ("users/current", "is_active"), ("api_client_authorizations/current", "scopes"),
        (f"containers/{CONTAINER}", "uuid"), (f"containers/{CONTAINER}", "state"),
        (f"containers/{CONTAINER}", "gateway_address"), (f"containers/{CONTAINER}", "runtime_constraints"),
    ],
)  # fmt: skip
def test_an_answer_that_lacks_something(scene: Scene, record: str, name: str) -> None:
    """A record without what decides, or with something else in its place, opens no session, and has a sentence."""
    for odd in (value for value in ODD if type(value) is not type(scene.api.records[record][name])):
        requests = list(scene.api.requests)
        scene.api.records[record][name], good = odd, scene.api.records[record][name]
        with pytest.raises(HttpError):
            run(scene.ask())
        scene.api.records[record][name], scene.api.requests = good, requests
    del scene.api.records[record][name]
    with pytest.raises(HttpError):
        run(scene.ask())
    assert not any("the controller failed" in line for line in scene.transcript.lines)


@pytest.mark.parametrize("requests", [None, "x", {"x": 1}, [None], ["x"], [{}], [{"uuid": "x"}]], ids=str)
def test_requests_that_are_none(scene: Scene, requests: Any) -> None:
    """A list of something else opens no session."""
    scene.api.requests = requests
    with pytest.raises(HttpError, match="something other than a list|other users submitted"):
        run(scene.ask())


def test_a_failure_of_our_own(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception is a refusal with status 500 for observers."""
    monkeypatch.setattr(access, "check_active", lambda user: user["unexpected"])
    with pytest.raises(KeyError):
        run(scene.ask())
    assert scene.transcript.lines == ["refused 500 the controller failed: KeyError"]
