"""The controller's way to a gateway: dial, prove, and be proven to.

Owns the connection to the address on the container's record and the check that the server there is the gateway of that
very container. Knows nothing of the user or of why they may enter.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from arv_ssh.errors import BadGateway, GatewayTimeout, HttpError, Unavailable, from_status
from arv_ssh.net.http_client import ClientConnection, Head
from arv_ssh.net.tls import client_context
from arv_ssh.net.tls_transport import TlsLayer
from arv_ssh.net.upgraded import UpgradeRequest
from arv_ssh.resume import negotiation
from arv_ssh.trust import credentials, session_claim
from arv_ssh.trust.host_key import KINDS, public_line
from arv_ssh.trust.session_claim import SessionClaim

CONNECT_TIMEOUT = 10.0
"""Seconds for TCP and TLS to a gateway, which is in the cluster's own network."""
ANSWER_TIMEOUT = 30.0
"""Seconds for the gateway's answer: it looks up the login name in the container, and the node may be busy."""
RESPONSE_HEADER = "x-arvados-authorization-response"
"""The header of a gateway's answer that has its own proof."""
ANY_USERNAME = "X-Arvados-Session-Any-Username"
"""The header with :func:`arv_ssh.trust.credentials.any_username`."""
MAX_STATES = 64 * 1024
"""Bytes of the answer about the states of sessions, as many as one may ask for."""
REFUSAL_TIMEOUT = 5.0
"""Seconds for the rest of a refusal whose beginning has come."""


@dataclass(frozen=True)
class GatewayConnection:
    """A proven connection to a gateway: a paused transport and the SSH bytes that came with its answer.

    ``host_key`` is None for a stock Arvados gateway, whose host key cannot be known in advance. ``other_host_keys`` are
    those that the gateway has besides, as one header's text, and ``resume`` what it says of resuming the session.
    ``dialled`` and ``proven`` are the seconds that TCP and TLS took, and the exchange of the proofs after them.
    """

    transport: asyncio.Transport
    early: bytes
    host_key: str | None
    other_host_keys: str = ""
    resume: str = ""
    dialled: float = 0.0
    proven: float = 0.0


class NotTheGateway(BadGateway):
    """The server at the address has not proven that it is the container's gateway."""


Made = asyncio.BaseProtocol
"""The protocol that a dialled connection is given to."""


class Dialer(Protocol):
    """A way to the gateways that an address may name."""

    async def dial(self, uuid: str, address: str, protocol: Made) -> None:
        """Connect ``protocol`` to the gateway of container ``uuid`` at ``address``, as on its record.

        Raises :class:`OSError` when it cannot be reached, or an HttpError that says more.
        """


class TcpDialer:
    """The way to a gateway whose address is "host:port"."""

    async def dial(self, uuid: str, address: str, protocol: Made) -> None:
        """Connect over TCP; see :class:`Dialer`."""
        host, port = _split_address(address, uuid)
        await asyncio.get_running_loop().create_connection(lambda: protocol, host, port)


DIRECT = TcpDialer()


@dataclass(frozen=True)
class Target:
    """The target of a dial: the container's gateway, for one session, reached by ``dialer``.

    ``client`` is the user's address. With ``any_username`` the client's SSH user name is not to count. ``resume`` is
    what the gateway is told of resuming the session.
    """

    secret: str
    gateway_address: str
    session: SessionClaim
    detach_keys: str
    client: str = ""
    dialer: Dialer = DIRECT
    any_username: bool = False
    resume: str = ""

    @property
    def gateway(self) -> Gateway:
        """The gateway itself."""
        return Gateway(self.session.container_uuid, self.secret, self.gateway_address, self.dialer)


@dataclass(frozen=True)
class HeldState:
    """What a gateway says of a session that it holds: one of its states, and the attempt that last went on with it."""

    state: str
    attempt: int


async def connect(target: Target) -> GatewayConnection:
    """Open a session's connection to a gateway, proven both ways.

    Raises :class:`Unavailable` (cannot be reached), :class:`GatewayTimeout`, :class:`BadGateway` (refused us or failed
    the proofs), or Forbidden and BadRequest in the gateway's own words (the login name, the detach keys). All but those
    carry their ``dial_failure``.
    """
    try:
        return await _connect(target)
    except HttpError as error:
        error.dial_failure = _dial_failure(error)
        raise


def _dial_failure(error: HttpError) -> str:
    causes = {Unavailable: "unreachable", GatewayTimeout: "timeout", NotTheGateway: "proof", BadGateway: "refused"}
    return next((word for kind, word in causes.items() if isinstance(error, kind)), "")


async def _connect(target: Target) -> GatewayConnection:
    form = {"detach_keys": target.detach_keys, "login_username": target.session.login_username}
    answer = await _ask(target.gateway, lambda proof: _request(target, proof, "/ssh", form))
    try:
        return await answer.connection()
    except BaseException:
        answer.http.abort()
        raise


async def end(target: Target, reason: str) -> None:
    """Have the gateway end an open session: the one of ``target``'s user with ``target``'s request id.

    Our gateways pass ``reason`` to the client (SSH_MSG_DISCONNECT). A stock gateway does not know the request; that
    raises :class:`BadGateway`, as does any answer but a proven yes. Other failures are those of :func:`connect`.
    """
    answer = await _ask(target.gateway, lambda proof: _request(target, proof, "/end", {"reason": reason}))
    try:
        await answer.check(200)
    finally:
        answer.http.abort()


async def states(gateway: Gateway, sessions: Sequence[str]) -> dict[str, HeldState]:
    """Ask ``gateway`` what has become of ``sessions``, by their ids, at most MOST_ASKED; it does not have the others.

    Raises the failures of :func:`connect`.
    """
    names = " ".join(sessions)
    answer = await _ask(gateway, lambda proof: _question(gateway, proof, names))
    try:
        await answer.check(200)
        async with asyncio.timeout(ANSWER_TIMEOUT):
            found = json.loads(await answer.http.body(MAX_STATES))["sessions"]
        return {name: HeldState(str(facts["state"]), int(facts["attempt"])) for name, facts in found.items()}
    except (TimeoutError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadGateway("the gateway did not say what has become of its sessions") from error
    finally:
        answer.http.abort()


async def _ask(gateway: Gateway, request: Callable[[str], UpgradeRequest]) -> _Answer:
    """Dial the gateway and send it one request, made with our proof; return with its answer, unchecked."""
    clock = asyncio.get_running_loop().time
    began = clock()
    http, proof = await gateway.connect("ssh")
    connected = clock()
    async with gateway.answering(http, ANSWER_TIMEOUT):
        request(proof).send(http)
        head = await http.head()
    return _Answer(gateway, http, head, proof, connected - began, clock() - connected)


@dataclass(frozen=True)
class Gateway:
    """The gateway of container ``uuid``: the container's ``secret``, the address on the record, the way there."""

    uuid: str
    secret: str = field(repr=False)
    address: str
    dialer: Dialer = DIRECT

    async def connect(self, protocol: str = "", stall: float | None = None) -> tuple[ClientConnection, str]:
        """Return a connection to it for one exchange, and our proof for that; nothing of the gateway is proven yet.

        ``stall`` as for :class:`ClientConnection`.
        Raises :class:`Unavailable` (cannot be reached) or :class:`GatewayTimeout`.
        """
        http = ClientConnection("the gateway", protocol, stall)
        http.layer = layer = TlsLayer(_CONTEXT, http, server_side=False, server_hostname=None)
        async with self.answering(http, CONNECT_TIMEOUT):
            await self.dialer.dial(self.uuid, self.address, layer)
            await http.connected
            certificate = http.transport.get_extra_info("peer_certificate")
        return http, credentials.request_auth(self.secret, certificate)

    @asynccontextmanager
    async def answering(self, http: ClientConnection, timeout: float) -> AsyncGenerator[None, None]:
        """Give the gateway ``timeout`` seconds; a block that fails cuts the connection and raises an HttpError."""
        try:
            async with asyncio.timeout(timeout):
                yield
        except TimeoutError as error:
            http.abort()
            raise GatewayTimeout(f"the gateway of container {self.uuid} did not answer in time; try again") from error
        except OSError as error:
            http.abort()
            raise Unavailable(
                f"the gateway of container {self.uuid} cannot be reached at {self.address} "
                f"({error.strerror or error}); its node may be down"
            ) from error
        except BaseException:
            http.abort()
            raise

    def check(self, head: Head, proof: str) -> None:
        """Raise :class:`NotTheGateway` unless an answer to ``proof`` has the gateway's own."""
        given = head.fields().get(RESPONSE_HEADER, "")
        if not credentials.matches(given, credentials.respond_auth(self.secret, proof)):
            raise NotTheGateway(f"what answers at the gateway address of container {self.uuid} is not its gateway")


def host_of(address: str) -> str:
    """Return the host of "host:port", "" for any other address."""
    try:
        return urlsplit(f"//{address}").hostname or ""
    except ValueError:
        return ""


def _split_address(address: str, uuid: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{address}")
        if parts.hostname and parts.port:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise BadGateway(f"the gateway address of container {uuid} is {address!r}, which is not host:port")


_CONTEXT: ssl.SSLContext = client_context(insecure=True)
"""Certificates of gateways are self-signed and fresh; the proofs over them take the CA's place."""


def _request(target: Target, proof: str, path: str, form: dict[str, str]) -> UpgradeRequest:
    """Return the request for ``path`` with all the proofs it needs."""
    session = session_claim.encode(target.session)
    signature = credentials.session_auth(target.secret, proof, target.gateway_address, session)
    headers = [
        ("X-Arvados-Container-Gateway-Uuid", target.session.container_uuid),
        ("X-Arvados-Authorization", proof),
        ("X-Arvados-Session", session),
        ("X-Arvados-Session-Authorization", signature),
        ("X-Request-Id", target.session.request_id),
        # Apart from the session: older gateways know no other fields there.
        *([(ANY_USERNAME, credentials.any_username(target.secret, session))] if target.any_username else []),
        *([("X-Forwarded-For", target.client)] if target.client else []),
    ]
    if target.resume:
        resume_proof = credentials.resume_auth(target.secret, signature, target.resume)
        headers += [(negotiation.HEADER, target.resume), (negotiation.AUTHORIZATION_HEADER, resume_proof)]
    form = form | {"uuid": target.session.container_uuid}
    return UpgradeRequest(path, _host(target.gateway_address), headers, form)


def _question(gateway: Gateway, proof: str, names: str) -> UpgradeRequest:
    """Return the question what has become of some sessions, with its proofs."""
    headers = [
        ("X-Arvados-Container-Gateway-Uuid", gateway.uuid),
        ("X-Arvados-Authorization", proof),
        (negotiation.HELD_HEADER, credentials.held_auth(gateway.secret, proof, gateway.address, names)),
    ]
    return UpgradeRequest("/held", _host(gateway.address), headers, {"uuid": gateway.uuid, "sessions": names})


def _host(address: str) -> str:
    return address if " " not in address else "gateway"  # a tunnel has no host name


@dataclass(frozen=True)
class _Answer:
    """A gateway's answer to ``proof``, on a connection that is still open; none of it is trusted yet."""

    gateway: Gateway
    http: ClientConnection
    head: Head
    proof: str
    dialled: float
    proven: float

    async def check(self, status: int) -> None:
        """Raise unless the answer has that status and the gateway's own proof."""
        uuid = self.gateway.uuid
        if self.head.status != status:
            refusal = await self._refusal()
            if self.head.status in (400, 403, 410, 503):  # the user's request was bad or late, or the gateway is full
                raise refusal
            raise BadGateway(f"the gateway of container {uuid} refused the session: {refusal}")
        self.gateway.check(self.head, self.proof)

    async def _refusal(self) -> HttpError:
        """Return the refusal's own sentence, without waiting for one that a gateway does not finish."""
        try:
            async with asyncio.timeout(REFUSAL_TIMEOUT):
                return await self.http.refusal(self.head)
        except TimeoutError:
            return from_status(self.head.status, f"the gateway answered {self.head.status} and did not finish")

    async def connection(self) -> GatewayConnection:
        """Check the answer and return the connection; otherwise raise the error that the answer means."""
        await self.check(101)
        uuid, secret = self.gateway.uuid, self.gateway.secret
        host_key = self.head.fields().get("x-arvados-ssh-host-key")
        others = self.head.fields().get("x-arvados-ssh-other-host-keys", "")
        if not _are_the_containers(secret, host_key, others):
            raise NotTheGateway(f"the gateway of container {uuid} announced a host key that is not the container's")
        resume = self.head.fields().get(negotiation.HEADER.lower(), "")
        transport, early = self.http.take_over()
        return GatewayConnection(transport, early, host_key, others, resume, self.dialled, self.proven)


def _are_the_containers(secret: str, host_key: str | None, others: str) -> bool:
    """Say whether the announced keys derive from the container's ``secret``; a gateway with none is a stock one."""
    if host_key is None:
        return not others
    derived = {public_line(secret, kind) for kind in KINDS}
    return host_key == public_line(secret) and (not others or derived.issuperset(others.split(", ")))
