"""The services of a gateway beside a stock crunch-run: both are relayed to stock's own gateway on the same host.

Owns the way there: one TLS connection a request, proven both ways as a controller proves itself to a gateway. Knows
nothing of what is asked: stock decides that by the headers, as it does for a controller. WebSockets alone, which do not
work through stock's, are served here.
"""

from __future__ import annotations

import ssl

from arv_ssh.errors import BadGateway
from arv_ssh.net import http_client, http_relay
from arv_ssh.net.http_client import Address, ClientConnection, Head
from arv_ssh.net.http_messages import Answer, Request
from arv_ssh.net.http_relay import Headers
from arv_ssh.net.tls import client_context
from arv_ssh.trust import credentials
from crunch_sshd.gateway.services import Services
from crunch_sshd.gateway_options import split_address

STALL_TIMEOUT = 900.0
"""Seconds that an exchange may go without a byte: programs think before they answer."""
PROOF = b"x-arvados-authorization"
RESPONSE = b"x-arvados-authorization-response"
UUID = b"x-arvados-container-gateway-uuid"
OURS = frozenset({UUID, PROOF, b"x-arvados-session", b"x-arvados-session-authorization"})
"""The headers between a controller and this gateway, whose place is taken by those for stock's."""

_CONTEXT: ssl.SSLContext = client_context(insecure=True)
"""Certificates of gateways are self-signed and fresh; the proofs over them take the CA's place."""


class Relayed:
    """Relays to the gateway at ``address`` ("host:port") of container ``uuid``, with the secret that both know.

    ``served`` are this gateway's own services.
    """

    def __init__(self, address: str, uuid: str, secret: str, served: Services) -> None:
        host, port = split_address(address)
        self._address = Address(f"stock's gateway of container {uuid}", host, port, _CONTEXT)
        self._uuid = uuid
        self._secret = secret
        self._served = served
        self._open: set[ClientConnection] = set()

    async def log(self, request: Request) -> Answer:
        """Relay a request for logs."""
        return await self._relay(request)

    async def port(self, request: Request, port: int) -> Answer:
        """Relay a request for a port, which is still in its headers."""
        return await (self._served.port(request, port) if http_relay.protocol_of(request) else self._relay(request))

    def close(self) -> None:
        """End what is under way."""
        self._served.close()
        for connection in list(self._open):
            connection.abort()

    async def _relay(self, request: Request) -> Answer:
        connection = await http_client.connect(self._address, stall=STALL_TIMEOUT)
        self._open.add(connection)
        proof = self._proof(connection)
        headers = http_relay.request_headers(request, OURS)
        headers += [(UUID, self._uuid.encode()), (PROOF, proof.encode())]

        def check(head: Head) -> Headers:
            given = head.fields().get(RESPONSE.decode(), "")
            if not credentials.matches(given, credentials.respond_auth(self._secret, proof)):
                raise BadGateway(f"what answers at the address of {self._address.name} is not that gateway")
            return [pair for pair in head.headers if pair[0] != RESPONSE]

        target = request.target.decode("latin-1")
        return await http_relay.pass_on(
            connection, request, target, headers, stall=STALL_TIMEOUT, check=check,
            done=lambda: self._open.discard(connection),
        )  # fmt: skip

    def _proof(self, connection: ClientConnection) -> str:
        return credentials.request_auth(self._secret, connection.transport.get_extra_info("peer_certificate"))
