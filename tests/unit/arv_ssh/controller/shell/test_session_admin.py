"""Listing and ending sessions: who may, what is shown, and how controllers ask each other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.api.client import ApiClient
from arv_ssh.api.in_process import InProcessAdapter
from arv_ssh.config import cluster_config
from arv_ssh.controller.peers import peer_proofs
from arv_ssh.controller.peers.peers import Peers
from arv_ssh.controller.shell import endings
from arv_ssh.controller.shell.session_admin import BASE, PATH, SessionAdmin
from arv_ssh.controller.shell.sessions import KILLED, LiveConnection, Sessions
from arv_ssh.embedded.api import ApiAnswer
from arv_ssh.errors import BadRequest, Forbidden, HttpError, MethodNotAllowed, NotFound, Unauthorized
from arv_ssh.net.http_messages import Request, Response, Upgrade
from arv_ssh.net.http_server import HttpConnection
from tests.timing import DEADLINE
from tests.unit.arv_ssh.controller.sessions import CONTAINER, TOKEN, USER, session
from tests.unit.arv_ssh.streams import Wire

ROOT = "roottoken"
ADMIN = "v2/zzzzz-gj3su-111111111111111/adminadmin"
ADMIN_UUID = "zzzzz-tpzed-111111111111111"
CONFIG = cluster_config.parse("zzzzz", {"SystemRootToken": ROOT, "API": "https://api.invalid"})


said: dict[str, Any] = {}
"""What the API says of every user besides, or instead."""


def api(method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> ApiAnswer:
    """Know an administrator and a user; a token ending in "some" is for part of the API, "none" tells no scopes."""
    token = headers["authorization"].removeprefix("Bearer ")
    if not token.startswith((ADMIN, TOKEN)):
        return ApiAnswer(401, b'{"errors": ["the API token is not valid"]}')
    if path.endswith("users/current"):
        admin = token.startswith(ADMIN)
        user = {"uuid": ADMIN_UUID if admin else USER, "is_active": True, "is_admin": admin} | said
        return ApiAnswer(200, json.dumps(user).encode())
    if token.endswith("none"):
        return ApiAnswer(200, b'{"uuid": "zzzzz-gj3su-111111111111111"}')
    return ApiAnswer(200, json.dumps({"scopes": ["GET /"] if token.endswith("some") else ["all"]}).encode())


class Process:
    """A controller process with the live sessions given; ``ended`` is what was told to end."""

    def __init__(self, peers: Peers, *live: LiveConnection) -> None:
        self.sessions = Sessions()
        for one in live:
            self.sessions.run(one, (Wire(), b"SSH-2.0-x\r\n"), (Wire(), b""))
        client = ApiClient("https://api.invalid", "", adapter=InProcessAdapter(api))
        self.admin = SessionAdmin(CONFIG, client, self.sessions, peers)

    async def handle(self, request: Request) -> Response | Upgrade:
        found = PATH.fullmatch(request.path)
        assert found
        return await self.admin.handle(found.group(1), request)

    async def ask(self, method: str, path: str, body: bytes = b"", token: str = ADMIN, **headers: str) -> Any:
        path, _, query = path.partition("?")
        sent = {"authorization": f"Bearer {token}"} if token else {}
        sent |= {"content-type": "application/json"} | headers
        answer = await self.handle(Request(method, path, query, sent, body, "192.0.2.1", "req-1"))
        assert isinstance(answer, Response) and answer.status == 200
        return json.loads(answer.body)


@pytest.fixture
def alone(tmp_path: Path) -> Peers:
    return Peers(tmp_path / "own.sock", "", ())


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """The sessions told to end, with reason and sentence."""
    calls: list[tuple[str, str, str]] = []

    async def end(live: LiveConnection, reason: str, sentence: str, root_token: str) -> None:
        assert root_token == ROOT
        calls.append((live.id, reason, sentence))

    monkeypatch.setattr(endings, "end", end)
    return calls


def test_what_is_shown(alone: Peers) -> None:
    """A listed session says who is where, from where and since when, and never the token."""
    live = session()
    answer = asyncio.run(Process(alone, live).ask("GET", BASE))
    (item,) = answer["items"]
    assert (item["id"], item["user_uuid"], item["container_uuid"]) == (live.id, USER, CONTAINER)
    assert (item["peer"], item["login_username"], item["bytes_from_client"]) == ("192.0.2.7", "crunch", 11)
    assert item["started"] == "2027-01-15T08:00:00.000Z"
    assert "secretsecret" not in json.dumps(answer)


@pytest.mark.parametrize("name", ["uuid", "is_active", "is_admin"])
@pytest.mark.parametrize("odd", [None, 1, [True], {"x": 1}, ""], ids=str)
def test_only_a_plain_answer_makes_an_administrator(
    alone: Peers, monkeypatch: pytest.MonkeyPatch, name: str, odd: Any
) -> None:
    """An answer with something else in place of what decides lets nobody look at sessions."""
    monkeypatch.setitem(said, name, odd)
    with pytest.raises(Forbidden):
        asyncio.run(Process(alone).ask("GET", BASE))


@pytest.mark.parametrize(
    ("token", "kind", "sentence"),
    [
        ("", Unauthorized, "no API token was sent"),
        ("nonsense", Unauthorized, "token"),
        (TOKEN, Forbidden, "only administrators"),
        (f"{ADMIN}some", Forbidden, "this token is limited to certain requests"),
        (f"{ADMIN}none", Forbidden, "this token is limited to certain requests"),
    ],
)
@pytest.mark.parametrize("path", [BASE, f"{BASE}/ses-{'0' * 20}/kill"])
def test_administrators_only(
    alone: Peers, ended: list[Any], token: str, kind: type[HttpError], sentence: str, path: str
) -> None:
    """Everybody but an administrator with a full token is refused, before anything else, and told why."""
    process = Process(alone, session(id=f"ses-{'0' * 20}"))
    with pytest.raises(kind, match=sentence):
        asyncio.run(process.ask("GET" if path == BASE else "POST", path, token=token))
    assert not ended


def test_kill(alone: Peers, ended: list[Any]) -> None:
    """A killed session's user is told that an administrator did it, and why where that is said."""
    live = session()
    process = Process(alone, live)
    for body, words in ((b'{"reason": "maintenance"}', ": maintenance"), (b"", "")):
        answer = asyncio.run(process.ask("POST", f"{BASE}/{live.id}/kill", body))
        assert answer["id"] == live.id
        assert ended.pop() == (live.id, KILLED, f"an administrator ended this session{words}")


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "sentence"),
    [("POST", f"{BASE}/ses-{'0' * 20}/kill", b"", NotFound, f"no session ses-{'0' * 20} is open here"),
     ("POST", f"{BASE}/nonsense/kill", b"", NotFound, "'nonsense' is not a session id"),
     ("GET", f"{BASE}/ses-{'0' * 20}/kill", b"", MethodNotAllowed, "POST"),
     ("DELETE", BASE, b"", MethodNotAllowed, "GET"),
     ("POST", f"{BASE}/ses-{'0' * 20}/kill", b"[1", BadRequest, "must be JSON")],
)  # fmt: skip
def test_mistakes(
    alone: Peers, method: str, path: str, body: bytes, kind: type[HttpError], sentence: str
) -> None:
    """What cannot be done is said in one sentence."""
    with pytest.raises(kind, match=sentence):
        asyncio.run(Process(alone, session()).ask(method, path, body))


def proven(
    recipient: Path | str, method: str, target: str, body: bytes = b"", root_token: str = ROOT
) -> dict[str, Any]:
    """Return the token and the headers of a request with a proof."""
    proof, headers = peer_proofs.prove(root_token, str(recipient), method, target, body)
    return {"token": proof} | {name.lower(): value for name, value in headers.items()}


def test_a_controller_proves_itself(alone: Peers, ended: list[Any]) -> None:
    """What controllers ask each other needs a fresh proof for that very request; an administrator's token is none."""
    process, here = Process(alone, session()), alone.own_socket
    target = f"{BASE}?scope=process"
    proof = proven(here, "GET", target)
    assert len(asyncio.run(process.ask("GET", target, **proof))["items"]) == 1
    for wrong in (
        proof,
        proven(here, "GET", f"{BASE}?scope=host"),
        proven(here, "GET", target, root_token="another token"),
        proven("/run/another.sock", "GET", target),
        {"token": ADMIN},
    ):
        with pytest.raises(Unauthorized):
            asyncio.run(process.ask("GET", target, **wrong))


def test_a_kill_on_its_way_cannot_be_changed(alone: Peers, ended: list[Any]) -> None:
    """Who reads what controllers say can neither put another reason into a kill, nor send it again."""
    live, url = session(), "http://here:1"
    process = Process(replace(alone, own_url=url, internal_urls=(url, "http://there:2")), live)
    target, body = f"{BASE}/{live.id}/kill?scope=host", b'{"reason": "maintenance"}'
    proof = proven(url, "POST", target, body)
    with pytest.raises(Unauthorized, match="is wrong"):
        asyncio.run(process.ask("POST", target, b'{"reason": "send your password to me"}', **proof))
    with pytest.raises(Unauthorized, match="for another one"):
        asyncio.run(process.ask("POST", target, body, **proven("http://there:2", "POST", target, body)))
    asyncio.run(process.ask("POST", target, body, **proof))
    with pytest.raises(Unauthorized, match="was used before"):
        asyncio.run(process.ask("POST", target, body, **proof))
    assert ended == [(live.id, KILLED, "an administrator ended this session: maintenance")]


async def serve(stack: AsyncExitStack, path: Path, process: Process) -> None:
    server = await asyncio.get_running_loop().create_unix_server(lambda: HttpConnection(process.handle), str(path))
    await stack.enter_async_context(server)


def test_all_processes_of_a_host(tmp_path: Path, ended: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One process lists and ends the sessions of the others, and says which one did not answer."""
    monkeypatch.setattr(Peers, "siblings", lambda peers: [tmp_path / "other.sock", tmp_path / "gone.sock"])
    own = Peers(tmp_path / "own.sock", "", ())
    here, there = session(started=2.0), session(started=1.0)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            process = Process(own, here)
            # The other one knows siblings too, this one among them; it must not ask them.
            other = tmp_path / "other.sock"
            await serve(stack, other, Process(replace(own, own_socket=other), there))
            answer = await process.ask("GET", BASE)
            assert [item["id"] for item in answer["items"]] == [there.id, here.id]
            (missing,) = answer["missing"]
            assert "gone.sock" in missing
            answer = await process.ask("POST", f"{BASE}/{there.id}/kill", b'{"reason": "late"}')
            assert answer["id"] == there.id
            assert ended == [(there.id, KILLED, "an administrator ended this session: late")]
            with pytest.raises(NotFound, match=r"no session ses-0.*gone\.sock was not asked"):
                await process.ask("POST", f"{BASE}/ses-{'0' * 20}/kill")

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))


def test_a_killed_session_comes_back_nowhere(
    tmp_path: Path, ended: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All controllers refuse a killed session, not only the one that has it: its gateway may not have been told."""
    monkeypatch.setattr(Peers, "siblings", lambda peers: [tmp_path / "other.sock"])
    own, live = Peers(tmp_path / "own.sock", "", ()), session()

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            here, there = Process(own, live), Process(replace(own, own_socket=tmp_path / "other.sock"))
            await serve(stack, tmp_path / "other.sock", there)
            await here.ask("POST", f"{BASE}/{live.id}/kill", b'{"reason": "late"}')
            for process in (here, there):
                assert process.sessions.denied(live.id) == "an administrator ended this session: late"
            assert len(ended) == 1

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))


def test_other_hosts_are_asked_once(alone: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other hosts' controllers are asked for their host's sessions, with a proof and without the caller's token."""
    there = session()
    asked: list[str] = []

    async def ask(place: str, request: Any, timeout: float, *, verify: bool | str) -> tuple[int, bytes]:
        asked.append(f"{place} {request.target}")
        assert ADMIN not in str(request.all_headers())
        return 200, json.dumps({"items": [{"id": there.id, "started": "2027"}], "missing": []}).encode()

    monkeypatch.setattr("arv_ssh.controller.peers.peer_client.ask", ask)
    others = ("https://here:1", "https://there:2")
    process = Process(replace(alone, own_url="https://here:1", internal_urls=others))
    answer = asyncio.run(process.ask("GET", BASE))
    assert [item["id"] for item in answer["items"]] == [there.id]
    assert asked == [f"https://there:2 {BASE}?scope=host"]
