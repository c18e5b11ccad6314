"""The gateway's endpoint: the proofs, the order in which a request's purpose is decided, and the sessions they allow.

Owns who may ask anything here: a controller that knows this container's secret; for SSH, with a session that it signed.
Knows nothing of SSH itself, nor of how logs and ports are served. As with stock Arvados, headers decide what a request
is for, not its path.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from arv_ssh.errors import BadGateway, BadRequest, HttpError, NotFound, SessionEnded, Unauthorized, Unavailable
from arv_ssh.net.http_messages import Answer, Request, Response, Upgrade
from arv_ssh.resume import negotiation
from arv_ssh.resume.negotiation import HELD_HEADER, MOST_ASKED, Asked
from arv_ssh.trust import credentials, session_claim
from arv_ssh.trust.credentials import CLOCK_SKEW
from arv_ssh.trust.host_key import ED25519, public_line
from arv_ssh.trust.session_claim import LONGEST_REASON, SessionClaim
from crunch_sshd.gateway.connection import DEFAULT_USER, Login
from crunch_sshd.gateway.held_sessions import NOT_HERE, HeldSession, HeldSessions
from crunch_sshd.gateway.services import Services, Unserved
from crunch_sshd.runtimes import Runtime
from crunch_sshd.session import detach
from crunch_sshd.ssh.limits import ADDRESS_LENGTH

MAX_REMEMBERED = 10_000
"""At most this many sessions are remembered, some 4 MB. Only a controller of the cluster can add one, and each is
forgotten when it expires; beyond this number, new sessions are refused rather than old ones forgotten."""
END, HELD = "/end", "/held"
"""The paths by which a controller ends a session, and asks what has become of some."""
LOG_SOURCE = "/log"
"""The X-Webdav-Source of requests for the log directory; stock gateways serve no other."""
TARGET_PORT = "x-arvados-container-target-port"

Opened = Callable[[asyncio.Transport, bytes, Login], None]
Resumed = Callable[[asyncio.Transport, bytes, HeldSession, Asked], None]
End = Callable[[SessionClaim, str], int]
"""Ends a session's connections, giving the reason that the client shows; returns how many there were."""
Refused = Callable[[Request, HttpError, bool], None]
"""Is told of a request that fails, and whether a controller sent it, by its proof."""


@dataclass(frozen=True)
class Identity:
    """A gateway's proof of identity: its container, that container's secret, its certificate, its address."""

    container_uuid: str
    secret: str
    certificate: bytes
    address: str


class Endpoint:
    """The handler of a gateway's HTTP requests.

    ``opened`` takes over the connection of each proven session, and ``end`` ends it early; ``refused`` is called with
    every request that fails. ``check`` raises an error when there is no room for a session. ``host_keys`` are the kinds
    of keys that sessions are offered, the first one Ed25519. ``services`` answer what is not for SSH. ``held`` are the
    sessions that can be resumed, and ``resumed`` takes over each new connection for one.
    """

    def __init__(
        self,
        identity: Identity,
        runtime: Runtime,
        *,
        accept_unsigned: bool,
        opened: Opened,
        end: End,
        refused: Refused = lambda request, error, proven: None,
        check: Callable[[], None] = lambda: None,
        host_keys: Sequence[str] = (ED25519,),
        services: Services | None = None,
        held: HeldSessions | None = None,
        resumed: Resumed = lambda transport, early, held, asked: transport.abort(),
    ) -> None:
        self._held = held
        self._resumed = resumed
        self._other_host_keys = host_keys[1:]
        self._services = services or Unserved()
        self._refused = refused
        self._check_room = check
        self._used: dict[str, int] = {}
        self._identity = identity
        self._runtime = runtime
        self._accept_unsigned = accept_unsigned
        self._opened = opened
        self._end = end

    def moved(self, address: str) -> None:
        """Use ``address`` as the gateway's address from now on: sessions must be signed for it. Event loop."""
        self._identity = replace(self._identity, address=address)

    def streams(self, request: Request) -> bool:
        """Say whether a request's body is taken as it comes: only a controller may be answered before its end."""
        about_ssh = _is_for_ssh(request) or _is_about_session(request)
        return not about_ssh and self._is_ours(request) and self._is_proven(request)

    async def handle(self, request: Request) -> Answer:
        """Answer one request: 101 for a proven session, otherwise the error that explains the refusal.

        Every answer to a controller has the gateway's own proof: stock controllers show no other to anyone.
        """
        proof = ""
        try:
            proof = self._check_request(request)
            response = credentials.respond_auth(self._identity.secret, proof)
            request.answer_headers["X-Arvados-Authorization-Response"] = response
            _check_purpose(request)
            if _is_about_session(request):
                return (self._end_session if request.path == END else self._states)(request, proof)
            if _is_for_ssh(request):
                return await self._begin(request, proof)
            service = self._service(request)
        except HttpError as error:
            self._refused(request, error, bool(proof))
            raise
        return await service(request)

    def _service(self, request: Request) -> Callable[[Request], Awaitable[Answer]]:
        """Return what serves a request that is not for SSH."""
        if _is_for_log(request):
            # A stock controller passes these on to the client, and none of the headers of a session.
            request.answer_headers.update(self._host_key_headers())
            return self._services.log
        if port := request.headers.get(TARGET_PORT):
            return partial(self._services.port, port=_port(port))
        raise NotFound(
            "a container gateway serves sessions (POST with Upgrade: ssh), logs (X-Webdav-Source: /log) and ports "
            "(X-Arvados-Container-Target-Port); this request asks for none of them"
        )

    async def _begin(self, request: Request, proof: str) -> Upgrade:
        form = request.form()
        asked = self._asked(request)
        session = self._session(request, proof, asked)
        if asked is not None and asked.resumes:
            return self._resume(asked, session)
        self._check_room()
        requested = session.login_username if session else form.get("login_username", "")
        # A client may leave it to us what the name means.
        login_username = "" if requested == DEFAULT_USER else requested
        account = await asyncio.to_thread(self._runtime.account, login_username)
        secret = self._identity.secret
        login = Login(
            login_username=login_username,
            account=account,
            user_credential=credentials.user_credential(secret, session_claim.encode(session)) if session else "",
            detach_keys=detach.parse(form.get("detach_keys", "")),
            request_id=session.request_id if session else request.request_id,
            user_uuid=session.user_uuid if session else "",
            client=request.headers.get("x-forwarded-for", "")[:ADDRESS_LENGTH],
            gateway=self._identity.address,
            any_username=session is None or self._may_have_any_username(request, session),
            requested=requested,
            grant=self._held.grant(asked.session) if asked and self._held else None,
        )
        headers = self._host_key_headers()
        if login.grant is not None:
            headers.append((negotiation.HEADER, str(login.grant)))
        return Upgrade("ssh", headers, lambda transport, early: self._opened(transport, early, login))

    def _host_key_headers(self) -> list[tuple[str, str]]:
        """Return the headers by which the gateway names its host keys."""
        secret = self._identity.secret
        headers = [("X-Arvados-Ssh-Host-Key", public_line(secret))]
        if self._other_host_keys:  # apart: older controllers and clients expect one key above
            others = ", ".join(public_line(secret, kind) for kind in self._other_host_keys)
            headers.append(("X-Arvados-Ssh-Other-Host-Keys", others))
        return headers

    def _resume(self, asked: Asked, session: SessionClaim | None) -> Upgrade:
        """Go on with a session on a new connection; what its user may is the controller's to judge, each time anew."""
        if self._held is None or session is None:
            raise SessionEnded(NOT_HERE)
        held, received = self._held.resume(asked, session)
        headers = [
            ("X-Arvados-Ssh-Host-Key", public_line(self._identity.secret)),
            (negotiation.HEADER, held.grant.answer(asked.attempt, received)),
        ]
        return Upgrade("ssh", headers, lambda transport, early: self._resumed(transport, early, held, asked))

    def _asked(self, request: Request) -> Asked | None:
        """Return what a controller has signed of resuming, checked."""
        text = request.headers.get(negotiation.HEADER.lower(), "")
        signed = request.headers.get("x-arvados-session-authorization", "")
        if not text or not signed:
            return None
        proof = request.headers.get(negotiation.AUTHORIZATION_HEADER.lower(), "")
        if not credentials.matches(proof, credentials.resume_auth(self._identity.secret, signed, text)):
            raise Unauthorized(f"the proof in {negotiation.AUTHORIZATION_HEADER} is wrong")
        asked = negotiation.read_request(text)
        return asked if asked is not None and asked.session else None

    def _states(self, request: Request, proof: str) -> Response:
        """Answer a controller that asks what has become of sessions: of those that are held, the state and attempt.

        It may ask as often as it likes: the question opens nothing, so that none need be remembered.
        """
        text = request.form().get("sessions", "")
        expected = credentials.held_auth(self._identity.secret, proof, self._identity.address, text)
        if not credentials.matches(request.headers.get(HELD_HEADER.lower(), ""), expected):
            raise Unauthorized(f"the proof in {HELD_HEADER} is wrong")
        names = text.split(" ")
        if len(names) > MOST_ASKED:
            raise BadRequest(f"the question is about {len(names)} sessions; ask about {MOST_ASKED} at once at most")
        found = [held for name in names if self._held and (held := self._held.find(name))]
        states = {held.grant.session: {"state": held.state, "attempt": held.attempt} for held in found}
        return Response(200, json.dumps({"sessions": states}).encode() + b"\n")

    def _end_session(self, request: Request, proof: str) -> Response:
        """End the open session that the signed one in the request names: same user, and same request id.

        One that is held may have gone on with another request's id, which its client chooses: it is known by its own.
        """
        asked = self._asked(request)
        session = self._session(request, proof, asked)
        if session is None:
            raise Unauthorized("only a controller that signs sessions can end one")
        found = self._held.find(asked.session) if asked and self._held else None
        held = found if found is not None and found.login.user_uuid == session.user_uuid else None
        reason = "".join(char if " " <= char <= "~" else "?" for char in request.form().get("reason", ""))
        reason = reason[:LONGEST_REASON]
        if not (held.end(reason) if held else self._end(session, reason)):
            raise NotFound(f"the user {session.user_uuid} has no session {session.request_id} open here")
        return Response(200, b"{}\n")

    def _check_request(self, request: Request) -> str:
        """Return the controller's proof, checked."""
        if not self._is_ours(request):
            raise BadGateway(f"misdirected request: this is the gateway of {self._identity.container_uuid}")
        if not self._is_proven(request):
            raise Unauthorized("the proof in X-Arvados-Authorization is wrong")
        return request.headers["x-arvados-authorization"]

    def _is_ours(self, request: Request) -> bool:
        return _named(request) == self._identity.container_uuid

    def _is_proven(self, request: Request) -> bool:
        expected = credentials.request_auth(self._identity.secret, self._identity.certificate)
        return credentials.matches(request.headers.get("x-arvados-authorization", ""), expected)

    def _session(self, request: Request, proof: str, asked: Asked | None) -> SessionClaim | None:
        """Return the signed session, checked; None where the gateway accepts controllers that do not sign sessions."""
        text = request.headers.get("x-arvados-session")
        if text is None:
            if self._accept_unsigned:
                return None
            raise Unauthorized("the request has no X-Arvados-Session, and this gateway demands one")
        signature = request.headers.get("x-arvados-session-authorization", "")
        identity = self._identity
        if not credentials.matches(
            signature, credentials.session_auth(identity.secret, proof, identity.address, text)
        ):
            raise Unauthorized("the proof in X-Arvados-Session-Authorization is wrong")
        session = session_claim.decode(text)
        if session.container_uuid != identity.container_uuid:
            raise BadGateway(f"the session is for {session.container_uuid}, not for {identity.container_uuid}")
        late = time.time() - session.exp
        if late > CLOCK_SKEW:
            raise Unauthorized(f"the session has expired, {late:.0f} s ago by the clock of the container's node; "
                               "check that clock and the controller's")  # fmt: skip
        # A session that ends in the second in which it began has the same text both times. Ending it twice is harmless.
        if text not in self._used or not _is_about_session(request):
            self._use(text, asked, session.exp + CLOCK_SKEW)
        return session

    def _may_have_any_username(self, request: Request, session: SessionClaim) -> bool:
        """Say whether the controller has signed that the SSH user name does not count; raise for a wrong signature."""
        signature = request.headers.get("x-arvados-session-any-username")
        if signature is None:
            return False
        expected = credentials.any_username(self._identity.secret, session_claim.encode(session))
        if not credentials.matches(signature, expected):
            raise Unauthorized("the proof in X-Arvados-Session-Any-Username is wrong")
        return True

    def _use(self, text: str, asked: Asked | None, until: int) -> None:
        """Remember a session until it expires; raise if it is known already: recorded requests cannot be replayed.

        One that goes on may have the text with which it began: there, the attempt's number tells what was recorded. The
        text is remembered all the same, lest a session begin with it.
        """
        if text in self._used and not (asked and asked.resumes):
            raise Unauthorized("the session was used before; connect again")
        if len(self._used) >= MAX_REMEMBERED:
            now = time.time()
            self._used = {used: end for used, end in self._used.items() if end >= now}
        if len(self._used) >= MAX_REMEMBERED and text not in self._used:
            raise Unavailable("too many sessions were begun here within two minutes; try again")
        self._used[text] = until


def _named(request: Request) -> str:
    """Return the container whose gateway a request is for, "" if it names none."""
    with suppress(BadRequest):  # a form with too many fields
        return request.headers.get("x-arvados-container-gateway-uuid") or request.form().get("uuid", "")
    return ""


def _is_about_session(request: Request) -> bool:
    """Say whether a request is about sessions; a container's own ``/end`` has its port beside the path."""
    return request.method == "POST" and request.path in (END, HELD) and TARGET_PORT not in request.headers


def _check_purpose(request: Request) -> None:
    """Raise :class:`BadRequest` for more than one purpose: one is the controller's, the other came from its client.

    A stock controller passes its client's headers on. The visitor of a public port could otherwise begin a session, or
    read the log, and a reader of the log could use a private port.
    """
    purposes = [_is_for_ssh(request), _is_for_log(request), TARGET_PORT in request.headers]
    if sum(purposes) > 1:
        raise BadRequest("the request asks for more than one of a session, the log and a port; send it again for one")


def _is_for_ssh(request: Request) -> bool:
    return request.method == "POST" and request.headers.get("upgrade", "").lower() == "ssh"


def _is_for_log(request: Request) -> bool:
    return request.headers.get("x-webdav-source") == LOG_SOURCE


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536):
        raise BadRequest("X-Arvados-Container-Target-Port is not a port from 1 to 65535")
    return int(text)
