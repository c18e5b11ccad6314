"""The gateway's front door: which request becomes a session, and what every other one is told."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from arv_ssh.errors import BadGateway, BadRequest, Forbidden, HttpError, NotFound, Unauthorized, Unavailable
from arv_ssh.net.http_messages import Answer, Request, Response, Upgrade
from arv_ssh.trust import credentials, host_key, session_claim
from arv_ssh.trust.credentials import CLOCK_SKEW
from arv_ssh.trust.session_claim import SessionClaim
from crunch_sshd.gateway import endpoint
from crunch_sshd.gateway.connection import Login
from crunch_sshd.gateway.endpoint import Endpoint, Identity
from tests.unit.crunch_sshd.double import CRUNCH, ROOT, SECRET, MemoryRuntime

UUID = "zzzzz-dz642-abcdeabcdeabcde"
ADDRESS = "10.0.0.7:34567"
PORT = "x-arvados-container-target-port"
CERTIFICATE = b"certificate bytes in DER"
PROOF = credentials.request_auth(SECRET, CERTIFICATE)


def session(**changes: Any) -> SessionClaim:
    return replace(SessionClaim(UUID, int(time.time()) + 60, "", "req-1", "zzzzz-tpzed-xurymjxw79nv3jz"), **changes)


def signed(text: str, *, proof: str = PROOF, address: str = ADDRESS, secret: str = SECRET) -> dict[str, str]:
    return {
        "x-arvados-session": text,
        "x-arvados-session-authorization": credentials.session_auth(secret, proof, address, text),
    }


def request(headers: dict[str, str], form: str = "", *, method: str = "POST", path: str = "/ssh") -> Request:
    own = {"upgrade": "ssh", "x-arvados-container-gateway-uuid": UUID, "x-arvados-authorization": PROOF}
    merged = {name: value for name, value in (own | headers).items() if value != "absent"}
    return Request(method, path, "", merged, form.encode(), "192.0.2.1", "req-of-http")


def proven(one: Request) -> bool:
    """Say whether the answer to a request that was handled carries the gateway's own proof."""
    return one.answer_headers["X-Arvados-Authorization-Response"] == credentials.respond_auth(SECRET, PROOF)


class Noting:
    """Services that note what they are asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    async def log(self, request: Request) -> Answer:
        self.asked.append(("log", 0))
        return Response(207, b"")

    async def port(self, request: Request, port: int) -> Answer:
        self.asked.append(("port", port))
        raise Unavailable("not listening")

    def close(self) -> None:
        raise AssertionError("nothing stops here")


def serve(one: Request, services: Noting | None = None) -> tuple[Answer, Endpoint]:
    """Return the answer to a request that begins no session."""
    front = Endpoint(
        Identity(UUID, SECRET, CERTIFICATE, ADDRESS), MemoryRuntime(), accept_unsigned=True,
        opened=lambda transport, early, login: None, end=lambda session, reason: 0, services=services,
    )  # fmt: skip
    return asyncio.run(front.handle(one)), front


def end(one: Request, known: int = 1) -> tuple[Response, list[tuple[str, str, str]]]:
    """Return the answer to POST /end, and which sessions were to be ended with which reason; ``known`` are open."""
    asked: list[tuple[str, str, str]] = []

    def note(session: SessionClaim, reason: str) -> int:
        asked.append((session.user_uuid, session.request_id, reason))
        return known

    front = Endpoint(
        Identity(UUID, SECRET, CERTIFICATE, ADDRESS), MemoryRuntime(), accept_unsigned=True,
        opened=lambda transport, early, login: None, end=note,
    )  # fmt: skip
    answer = asyncio.run(front.handle(one))
    assert isinstance(answer, Response)
    return answer, asked


def ask(
    one: Request, *, unsigned: bool = False,
    refused: Callable[[Request, HttpError, bool], None] = lambda request, error, proven: None, **more: Any,
) -> tuple[Upgrade, Login]:  # fmt: skip
    """Return the answer and the login that would be opened; ``refused`` is told what comes to nothing."""
    logins: list[Login] = []
    identity = Identity(UUID, SECRET, CERTIFICATE, ADDRESS)
    front = Endpoint(
        identity, MemoryRuntime(), accept_unsigned=unsigned,
        opened=lambda transport, early, login: logins.append(login), end=lambda session, reason: 0,
        refused=refused, **more,
    )  # fmt: skip
    answer = asyncio.run(front.handle(one))
    assert isinstance(answer, Upgrade)
    answer.start(None, b"")  # type: ignore[arg-type]
    return answer, logins[0]


def refused(
    one: Request, kind: type[HttpError], sentence: str, *, unsigned: bool = False, proven: bool = True
) -> None:
    told: list[tuple[Request, HttpError, bool]] = []
    with pytest.raises(HttpError, match=sentence) as caught:
        ask(one, unsigned=unsigned, refused=lambda *facts: told.append(facts))
    assert type(caught.value) is kind and told == [(one, caught.value, proven)]
    assert SECRET not in str(caught.value) and PROOF not in str(caught.value)


def test_who_and_where_from() -> None:
    """The login says who the user is and the address that the controller names, of bounded length."""
    text = session_claim.encode(session())
    _, login = ask(request(signed(text) | {"x-forwarded-for": "192.0.2.77"}))
    assert (login.user_uuid, login.client) == (session().user_uuid, "192.0.2.77")
    _, login = ask(request(signed(text) | {"x-forwarded-for": "x" * 1000}))
    assert len(login.client) == 64


def test_proven_session() -> None:
    """A signed session is a 101 with the gateway's own proof and host key, and a login as the session says."""
    text = session_claim.encode(session(login_username="crunch"))
    one = request(signed(text), "login_username=root&detach_keys=ctrl-p,ctrl-q&uuid=" + UUID)
    answer, login = ask(one)
    assert answer.headers == [("X-Arvados-Ssh-Host-Key", host_key.public_line(SECRET))] and proven(one)
    assert (login.login_username, login.account, login.request_id) == ("crunch", CRUNCH, "req-1")
    assert login.user_credential == credentials.user_credential(SECRET, text)
    assert login.detach_keys == b"\x10\x11"


def test_other_host_keys() -> None:
    """Keys besides Ed25519 have a header of their own: who expects one key in the first header finds one."""
    text = session_claim.encode(session())
    answer, _ = ask(request(signed(text)), host_keys=host_key.KINDS)
    headers = dict(answer.headers)
    assert headers["X-Arvados-Ssh-Host-Key"] == host_key.public_line(SECRET)
    assert headers["X-Arvados-Ssh-Other-Host-Keys"] == host_key.public_line(SECRET, host_key.ECDSA)


@pytest.mark.parametrize("target", ["absent", "", "zzzzz-dz642-000000000000000", UUID.upper()])
def test_wrong_uuid(target: str) -> None:
    """A request for another container is 502, before any proof is looked at."""
    headers = signed(session_claim.encode(session())) | {"x-arvados-container-gateway-uuid": target}
    refused(request(headers | {"x-arvados-authorization": "wrong"}), BadGateway, f"the gateway of {UUID}", proven=False)


@pytest.mark.parametrize(
    "proof",
    ["absent", "", "wrong", PROOF[:-1], PROOF.upper(), credentials.request_auth(SECRET, b"another certificate"),
     credentials.request_auth("another secret", CERTIFICATE), credentials.respond_auth(SECRET, PROOF)],
)  # fmt: skip
@pytest.mark.parametrize("unsigned", [True, False])
def test_wrong_request_proof(proof: str, unsigned: bool) -> None:
    """A proof that is not over this container's secret and this very certificate is 401."""
    headers = signed(session_claim.encode(session())) | {"x-arvados-authorization": proof}
    refused(request(headers), Unauthorized, "X-Arvados-Authorization is wrong", unsigned=unsigned, proven=False)


def test_unsigned_session() -> None:
    """A request without a session is 401, unless the gateway was started to accept it: then the form counts."""
    refused(request({}, "login_username=crunch"), Unauthorized, "no X-Arvados-Session")
    _, login = ask(request({}, "login_username=crunch&detach_keys="), unsigned=True)
    assert (login.login_username, login.account, login.request_id) == ("crunch", CRUNCH, "req-of-http")


def test_any_username() -> None:
    """The SSH user name does not count where the controller has signed that, or signs nothing; else it does."""
    text = session_claim.encode(session())
    assert not ask(request(signed(text)))[1].any_username
    word = {"x-arvados-session-any-username": credentials.any_username(SECRET, text)}
    assert ask(request(signed(text) | word))[1].any_username
    assert ask(request({}), unsigned=True)[1].any_username
    others = session_claim.encode(session(login_username="crunch"))
    for wrong in ("", "1", credentials.any_username("another", text), credentials.any_username(SECRET, others)):
        headers = signed(text) | {"x-arvados-session-any-username": wrong}
        refused(request(headers), Unauthorized, "X-Arvados-Session-Any-Username is wrong")


def test_name_of_the_default_user() -> None:
    """A controller may pass on the name that stands for the default user: clients of stock Arvados send it as it is."""
    for headers in (signed(session_claim.encode(session(login_username="_"))), {}):
        _, login = ask(request(headers, "login_username=_"), unsigned=True)
        assert (login.login_username, login.account) == ("", ROOT)
    assert login.user_credential == ""


def test_no_room() -> None:
    """A proven session for which there is no room is refused; who has proven nothing does not learn of it."""

    def full() -> None:
        raise Unavailable("no memory")

    front = Endpoint(
        Identity(UUID, SECRET, CERTIFICATE, ADDRESS), MemoryRuntime(), accept_unsigned=False,
        opened=lambda transport, early, login: None, end=lambda session, reason: 0, check=full,
    )  # fmt: skip
    with pytest.raises(Unavailable, match="no memory"):
        asyncio.run(front.handle(request(signed(session_claim.encode(session())))))
    with pytest.raises(Unauthorized):
        asyncio.run(front.handle(request({})))


def test_accepting_unsigned_does_not_accept_wrongly_signed() -> None:
    """A session that is there must be right, also where none is demanded."""
    text = session_claim.encode(session())
    headers = signed(text) | {"x-arvados-session-authorization": "wrong"}
    refused(request(headers), Unauthorized, "Session-Authorization is wrong", unsigned=True)


@pytest.mark.parametrize("signature", ["absent", "", PROOF, credentials.respond_auth(SECRET, PROOF)])
def test_wrong_session_proof(signature: str) -> None:
    """A session without its proof, or with one of the other values that go over the wire, is 401."""
    headers = signed(session_claim.encode(session())) | {"x-arvados-session-authorization": signature}
    refused(request(headers), Unauthorized, "Session-Authorization is wrong")


@pytest.mark.parametrize(
    "changed",
    [{"user_uuid": "zzzzz-tpzed-l1s2piq4t4mps8r"}, {"login_username": "root"}, {"exp": 2_000_000_000},
     {"request_id": "req-2"}],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
def test_swapped_session(changed: dict[str, Any]) -> None:
    """A session changed on the way does not fit its proof."""
    headers = signed(session_claim.encode(session())) | {
        "x-arvados-session": session_claim.encode(session(**changed))
    }
    refused(request(headers), Unauthorized, "Session-Authorization is wrong")


def test_other_address() -> None:
    """A session signed for another address is refused: an earlier attempt's node cannot pose as the current one."""
    text = session_claim.encode(session())
    refused(request(signed(text, address="10.0.0.7:34568")), Unauthorized, "Session-Authorization is wrong")


def test_session_of_another_connection() -> None:
    """A session signed over another connection's proof is refused: nothing can be replayed."""
    other = credentials.request_auth(SECRET, b"another certificate")
    text = session_claim.encode(session())
    refused(request(signed(text, proof=other)), Unauthorized, "Session-Authorization is wrong")


def test_session_for_another_container() -> None:
    """A signed session that names another container is 502."""
    text = session_claim.encode(session(container_uuid="zzzzz-dz642-000000000000000"))
    refused(request(signed(text)), BadGateway, "the session is for zzzzz-dz642-000000000000000")


def test_expired_session() -> None:
    """A session is over when it and the clocks' allowed difference are."""
    now = int(time.time())
    ask(request(signed(session_claim.encode(session(exp=now - CLOCK_SKEW + 10)))))
    refused(request(signed(session_claim.encode(session(exp=now - CLOCK_SKEW - 1)))), Unauthorized, "has expired")


def lasting() -> Endpoint:
    """Return one endpoint, to be asked several times."""
    return Endpoint(
        Identity(UUID, SECRET, CERTIFICATE, ADDRESS), MemoryRuntime(), accept_unsigned=False,
        opened=lambda transport, early, login: None, end=lambda session, reason: 1,
    )  # fmt: skip


@pytest.mark.parametrize("first", ["/ssh", "/end"])
def test_a_session_is_good_once(first: str) -> None:
    """Whoever recorded a proven request, to begin a session or to end one, can begin none with it."""
    one, text = lasting(), session_claim.encode(session())
    asyncio.run(one.handle(request(signed(text), path=first)))
    with pytest.raises(Unauthorized, match="used before"):
        asyncio.run(one.handle(request(signed(text))))
    asyncio.run(one.handle(request(signed(session_claim.encode(session(request_id="req-2"))))))


def test_a_session_that_is_ended_at_once() -> None:
    """Within one second the texts of beginning and end are the same: it is ended nevertheless."""
    one, text = lasting(), session_claim.encode(session())
    for path in ("/ssh", "/end", "/end"):
        asyncio.run(one.handle(request(signed(text), path=path)))


def test_a_session_that_is_not_proven_is_not_remembered() -> None:
    """Nobody without the secret can use up a session, or the memory for them."""
    one, text = lasting(), session_claim.encode(session())
    for _ in range(2):
        with pytest.raises(Unauthorized, match="Session-Authorization is wrong"):
            asyncio.run(one.handle(request(signed(text, secret="another"))))
    asyncio.run(one.handle(request(signed(text))))


def test_the_memory_of_sessions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit sessions are refused rather than forgotten, until old ones have expired."""
    monkeypatch.setattr(endpoint, "MAX_REMEMBERED", 2)
    one, now = lasting(), int(time.time())
    almost_over = session_claim.encode(session(exp=now - CLOCK_SKEW + 20))
    for text in (almost_over, session_claim.encode(session())):
        asyncio.run(one.handle(request(signed(text))))
    another = request(signed(session_claim.encode(session(request_id="req-2"))))
    with pytest.raises(Unavailable, match="try again"):
        asyncio.run(one.handle(another))
    monkeypatch.setattr(time, "time", lambda: now + 30.0)
    asyncio.run(one.handle(another))


def test_signed_nonsense() -> None:
    """A text that is signed and yet no session is 400."""
    text = base64.urlsafe_b64encode(json.dumps({"exp": 1}).encode()).decode()
    refused(request(signed(text)), BadRequest, "not a session")


def test_unknown_login_name() -> None:
    """A login name that the container does not have is 403 with its name."""
    text = session_claim.encode(session(login_username="alice"))
    refused(request(signed(text)), Forbidden, "no user 'alice'")


def test_default_user() -> None:
    """No login name is the image's default user."""
    assert ask(request(signed(session_claim.encode(session()))))[1].account == ROOT


def test_wrong_detach_keys() -> None:
    """Detach keys that are none are 400, told before the session begins."""
    refused(request(signed(session_claim.encode(session())), "detach_keys=nonsense"), BadRequest, "detach keys")


@pytest.mark.parametrize(
    ("one", "kind", "sentence"),
    [
        (request({}, method="GET"), NotFound, "asks for none of them"),
        (request({"upgrade": "websocket"}), NotFound, "asks for none of them"),
        (request({"upgrade": "absent"}), NotFound, "asks for none of them"),
        (request({"upgrade": "absent", "x-webdav-source": "/"}), NotFound, "asks for none of them"),
        (request({"upgrade": "absent", PORT: "0"}), BadRequest, "not a port"),
        (request({"upgrade": "absent", PORT: "65536"}), BadRequest, "not a port"),
        (request({"upgrade": "absent", PORT: "80\u00b2"}), BadRequest, "not a port"),
        (request({"upgrade": "absent", PORT: "-1"}), BadRequest, "not a port"),
    ],
)
def test_no_purpose(one: Request, kind: type[HttpError], sentence: str) -> None:
    """A request for nothing that a gateway has is refused; the answer has the proof."""
    refused(one, kind, sentence)
    assert proven(one)


@pytest.mark.parametrize("path", ["/", "/ssh/", "/index.html"])
def test_the_path_of_a_session_does_not_count(path: str) -> None:
    """A session begins on any path, as with stock gateways, and only once."""
    one = request(signed(session_claim.encode(session())), path=path)
    ask(one)
    front = Endpoint(
        Identity(UUID, SECRET, CERTIFICATE, ADDRESS), MemoryRuntime(), accept_unsigned=False,
        opened=lambda transport, early, login: None, end=lambda session, reason: 0,
    )  # fmt: skip
    asyncio.run(front.handle(one))
    with pytest.raises(Unauthorized, match="used before"):
        asyncio.run(front.handle(one))


LOG, AT_PORT = {"upgrade": "absent", "x-webdav-source": "/log"}, {"upgrade": "absent", PORT: "8080"}


@pytest.mark.parametrize(
    ("one", "asked"),
    [
        (request(LOG, method="PROPFIND", path="/end"), ("log", 0)),
        (request(LOG), ("log", 0)),
        (request(AT_PORT, path="/end"), ("port", 8080)),
        (request(AT_PORT | {"upgrade": "websocket"}, method="GET"), ("port", 8080)),
        (request(AT_PORT | {"upgrade": "ssh"}, method="GET"), ("port", 8080)),
        (request(AT_PORT | {"x-webdav-source": "/"}, method="GET"), ("port", 8080)),
    ],
)
def test_services(one: Request, asked: tuple[str, int]) -> None:
    """Headers alone decide between logs and ports; both answers are proven, errors as well, and bodies streamed."""
    services = Noting()
    try:
        serve(one, services)
    except Unavailable:
        assert asked[0] == "port"
    assert services.asked == [asked] and proven(one)


@pytest.mark.parametrize(
    "headers",
    [AT_PORT | {"upgrade": "ssh"}, LOG | {"upgrade": "ssh"}, LOG | AT_PORT, AT_PORT | LOG | {"upgrade": "ssh"}],
)
def test_two_purposes(headers: dict[str, str]) -> None:
    """Stock controllers pass their clients' headers on: a visitor of a port gets neither a session nor the log."""
    services = Noting()
    for one in (request(headers), request(signed(session_claim.encode(session())) | headers)):
        with pytest.raises(BadRequest, match="more than one of a session, the log and a port"):
            serve(one, services)
        assert not services.asked and proven(one)


@pytest.mark.parametrize("headers", [LOG, AT_PORT])
def test_services_of_a_gateway_without_them(headers: dict[str, str]) -> None:
    """A gateway for SSH alone has neither logs nor ports."""
    with pytest.raises(NotFound, match="gateway"):
        serve(request(headers))


def test_what_is_streamed() -> None:
    """The bodies of proven requests for services are taken as they come, and no others."""
    front = serve(request(LOG), Noting())[1]
    assert front.streams(request(LOG)) and front.streams(request(AT_PORT, path="/end"))
    assert not front.streams(request({})) and not front.streams(request({"upgrade": "absent"}, path="/end"))
    assert not front.streams(request(LOG | {"x-arvados-authorization": "wrong"}))
    assert not front.streams(request(LOG | {"x-arvados-container-gateway-uuid": "other"}))


def test_the_uuid_in_the_form() -> None:
    """A request without the header may name the container in its form, as with stock gateways."""
    services = Noting()
    nameless = LOG | {"x-arvados-container-gateway-uuid": "absent"}
    serve(request(nameless, f"uuid={UUID}"), services)
    serve(replace(request(nameless), query=f"uuid={UUID}"), services)
    assert len(services.asked) == 2
    for form in ("", "uuid=other", "&".join(["a=b"] * 1000) + f"&uuid={UUID}"):
        with pytest.raises(BadGateway):
            serve(request(nameless, form), services)


def test_end() -> None:
    """A signed POST /end ends that user's session of that request id; the gateway proves itself in its answer."""
    text = session_claim.encode(session(request_id="req-2"))
    one = request(signed(text), "reason=your%20token%20expired", path="/end")
    answer, asked = end(one)
    assert asked == [("zzzzz-tpzed-xurymjxw79nv3jz", "req-2", "your token expired")]
    assert answer.status == 200 and proven(one)


def test_end_shows_printable_text_only() -> None:
    """A reason reaches terminals: control characters are taken out, and it is no longer than ssh shows."""
    _, asked = end(request(signed(session_claim.encode(session())), "reason=%1B[2Ja%0A" + "b" * 1000, path="/end"))
    assert asked[0][2] == ("?[2Ja?" + "b" * 1000)[:400]


def test_end_of_nothing() -> None:
    """Without such a session the answer is 404."""
    with pytest.raises(NotFound, match="has no session req-1 open here"):
        end(request(signed(session_claim.encode(session())), "reason=x", path="/end"), known=0)


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-arvados-session": session_claim.encode(session())}, {"x-arvados-authorization": "wrong"},
     signed(session_claim.encode(session()), secret="another")],
    ids=["unsigned", "no signature", "wrong proof", "another secret"],
)  # fmt: skip
def test_only_a_proven_controller_ends_sessions(headers: dict[str, str]) -> None:
    """POST /end without a session that a controller signed is 401, also where unsigned sessions are accepted."""
    with pytest.raises(Unauthorized):
        end(request(headers, "reason=x", path="/end"))
