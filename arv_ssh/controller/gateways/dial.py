"""The controller's way to a gateway: dial, prove, and be proven to.

Owns the connection to the address on the container's record and the check that what answers there is the gateway of
that very container. Knows nothing of who the user is or why they may enter.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from arv_ssh.errors import BadGateway, GatewayTimeout, HttpError, Unavailable
from arv_ssh.net import upgrade
from arv_ssh.net.relay import plain
from arv_ssh.net.tls import client_context
from arv_ssh.net.tls_transport import TlsLayer
from arv_ssh.trust import credentials, session_claim
from arv_ssh.trust.host_key import public_line
from arv_ssh.trust.session_claim import SessionClaim

CONNECT_TIMEOUT = 10.0
"""Seconds for TCP and TLS to a gateway; it is in the cluster's own network."""
ANSWER_TIMEOUT = 30.0
"""Seconds for the gateway's answer: it looks the login name up in the container, and the node may be busy."""


@dataclass(frozen=True)
class GatewayConnection:
    """A proven connection to a gateway: a paused transport and the SSH bytes that came with its answer.

    ``host_key`` is None for a stock Arvados gateway, whose host key nobody can know beforehand. ``dialled`` and
    ``proven`` are the seconds that TCP and TLS took, and the exchange of the proofs after them.
    """

    transport: asyncio.Transport
    early: bytes
    host_key: str | None
    dialled: float = 0.0
    proven: float = 0.0


class NotTheGateway(BadGateway):
    """What answers at the address has not proven to be the container's gateway."""


Made = asyncio.BaseProtocol
"""The protocol that a dialled connection is given to."""


class Dialer(Protocol):
    """A way to the gateways that an address may name."""

    async def dial(self, uuid: str, address: str, protocol: Made) -> None:
        """Connect ``protocol`` to the gateway of container ``uuid`` at ``address``, as its record has it.

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
    """What to dial: the container's gateway, for one session, in the way of ``dialer``.

    ``client`` is the address that the user came from.
    """

    secret: str
    gateway_address: str
    session: SessionClaim
    detach_keys: str
    client: str = ""
    dialer: Dialer = DIRECT


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
    dial = await _ask(target, "/ssh", form)
    try:
        return dial.connection()
    except BaseException:
        dial.abort()
        raise


async def end(target: Target, reason: str) -> None:
    """Have the gateway end a session that is open: the one of ``target``'s user with its request id.

    The client is told ``reason`` (SSH_MSG_DISCONNECT) by our gateways; a stock Arvados one knows no such request, and
    raises :class:`BadGateway` as everything that is not a proven yes does; the rest is raised as by :func:`connect`.
    """
    dial = await _ask(target, "/end", {"reason": reason})
    try:
        dial.check(200)
    finally:
        dial.abort()


async def _ask(target: Target, path: str, form: dict[str, str]) -> _Dial:
    """Dial the gateway and send it one request; return with its answer, unchecked."""
    uuid = target.session.container_uuid
    dial = _Dial(target, path, form)
    layer = TlsLayer(_CONTEXT, dial, server_side=False, server_hostname=None)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await target.dialer.dial(uuid, target.gateway_address, layer)
            await dial.connected
        async with asyncio.timeout(ANSWER_TIMEOUT):
            await dial.answered
        return dial
    except TimeoutError as error:
        layer.abort_if_open()
        raise GatewayTimeout(f"the gateway of container {uuid} did not answer in time; try again") from error
    except OSError as error:
        layer.abort_if_open()
        raise Unavailable(
            f"the gateway of container {uuid} cannot be reached at {target.gateway_address} "
            f"({error.strerror or error}); its node may be down"
        ) from error
    except BaseException:
        layer.abort_if_open()
        raise


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


class _Dial(asyncio.Protocol):
    """The HTTP exchange on a fresh TLS connection to a gateway: ``form`` is sent to ``path``."""

    def __init__(self, target: Target, path: str, form: dict[str, str]) -> None:
        loop = asyncio.get_running_loop()
        self.connected: asyncio.Future[None] = loop.create_future()
        self.answered: asyncio.Future[None] = loop.create_future()
        self._target = target
        self._path = path
        self._form = form
        self._answer = upgrade.UpgradeAnswer("the gateway")
        self._transport: asyncio.Transport
        self._proof = ""
        self._times = [loop.time()]  # when it began, was connected, was answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = plain(transport)
        self._times.append(asyncio.get_running_loop().time())
        self._proof = credentials.request_auth(
            self._target.secret, self._transport.get_extra_info("peer_certificate")
        )
        self._transport.write(self._request())
        if not self.connected.done():
            self.connected.set_result(None)

    def _request(self) -> bytes:
        target = self._target
        session = session_claim.encode(target.session)
        signature = credentials.session_auth(target.secret, self._proof, target.gateway_address, session)
        headers = [
            ("X-Arvados-Container-Gateway-Uuid", target.session.container_uuid),
            ("X-Arvados-Authorization", self._proof),
            ("X-Arvados-Session", session),
            ("X-Arvados-Session-Authorization", signature),
            ("X-Request-Id", target.session.request_id),
            *([("X-Forwarded-For", target.client)] if target.client else []),
        ]
        form = self._form | {"uuid": target.session.container_uuid}
        host = target.gateway_address if " " not in target.gateway_address else "gateway"  # of a tunnel: has no name
        return upgrade.request("POST", self._path, host, headers, form)

    def data_received(self, data: bytes) -> None:
        self._feed(data)

    def eof_received(self) -> bool:
        self._feed(b"")
        return False

    def _feed(self, data: bytes) -> None:
        try:
            complete = self._answer.receive(data)
        except HttpError as error:
            self._fail(error)
            return
        if complete and not self.answered.done():
            # What follows waits in the kernel until the relay takes over.
            self._transport.pause_reading()
            self._times.append(asyncio.get_running_loop().time())
            self.answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        cause = f" ({exc})" if exc else ""
        self._fail(BadGateway(f"the gateway of {self._target.session.container_uuid} closed the connection{cause}"))

    def _fail(self, error: HttpError) -> None:
        for future in (self.connected, self.answered):
            if not future.done():
                future.set_exception(error)
                future.exception()  # read, so that a future nobody awaits any more is not reported

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def check(self, status: int) -> None:
        """Raise unless the answer has that status and the gateway's own proof."""
        uuid, secret, answer = self._target.session.container_uuid, self._target.secret, self._answer
        if answer.status in (400, 403, 503):  # not what the gateway is: what the user asked for, or a full one
            raise answer.error()
        if answer.status != status:
            raise BadGateway(f"the gateway of container {uuid} refused the session: {answer.error()}")
        proof = answer.headers.get("x-arvados-authorization-response", "")
        if not credentials.matches(proof, credentials.respond_auth(secret, self._proof)):
            raise NotTheGateway(f"what answers at the gateway address of container {uuid} is not its gateway")

    def connection(self) -> GatewayConnection:
        """Check the answer and return the connection; raise what the answer means otherwise."""
        self.check(101)
        uuid, secret, answer = self._target.session.container_uuid, self._target.secret, self._answer
        host_key = answer.headers.get("x-arvados-ssh-host-key")
        if host_key is not None and host_key != public_line(secret):
            raise NotTheGateway(f"the gateway of container {uuid} announced a host key that is not the container's")
        began, connected, answered = self._times
        return GatewayConnection(self._transport, answer.trailing, host_key, connected - began, answered - connected)
