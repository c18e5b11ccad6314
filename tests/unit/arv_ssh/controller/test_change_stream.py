import asyncio
import json
from collections.abc import Mapping
from contextlib import aclosing

import pytest

from arv_ssh.api.client import ApiClient
from arv_ssh.api.in_process import InProcessAdapter
from arv_ssh.controller import change_stream
from arv_ssh.controller.change_stream import PATH, ChangeStream
from arv_ssh.embedded.api import ApiAnswer
from arv_ssh.errors import Forbidden, HttpError, MethodNotAllowed, Unauthorized
from arv_ssh.net.http_messages import Request

ADMIN, USER = "admin", "user"


def api(method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> ApiAnswer:
    token = headers["authorization"].removeprefix("Bearer ")
    if path.endswith("users/current"):
        user = {"uuid": "zzzzz-tpzed-abcdeabcdeabcde", "is_active": True, "is_admin": token != USER}
        return ApiAnswer(200, json.dumps(user).encode())
    return ApiAnswer(200, json.dumps({"scopes": ["all"] if token in (ADMIN, USER) else ["GET /"]}).encode())


def request(token: str, method: str = "GET") -> Request:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return Request(method, PATH, "", headers, b"", "127.0.0.1", "req-1")


def stream() -> ChangeStream:
    result = ChangeStream(ApiClient("https://api.invalid", "", adapter=InProcessAdapter(api)))
    result.start()
    return result


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (request(""), Unauthorized),
        (request(USER), Forbidden),
        (request("part"), Forbidden),
        (request(ADMIN, "POST"), MethodNotAllowed),
    ],
    ids=["no token", "a user", "a scoped token", "POST"],
)
def test_who_may_not_watch(asked: Request, error: type[HttpError]) -> None:
    """Only an administrator's whole token may watch all containers."""

    async def main() -> None:
        with pytest.raises(error):
            await stream().handle(asked)

    asyncio.run(main())


def test_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line comes at once, the others with notices, empty ones in between; a stop ends the stream."""
    monkeypatch.setattr(change_stream, "PACE", 0.0)
    monkeypatch.setattr(change_stream, "HEARTBEAT", 0.05)

    async def main() -> None:
        changes = stream()
        answer = await changes.handle(request(ADMIN))
        async with aclosing(answer.chunks) as chunks:
            lines = aiter(chunks)
            assert await anext(lines) == b"look\n"
            assert await anext(lines) == b"\n"
            await asyncio.to_thread(changes.heard)
            assert await anext(lines) == b"look\n"
            changes.stop()
            with pytest.raises(StopAsyncIteration):
                await anext(lines)

    asyncio.run(main())
