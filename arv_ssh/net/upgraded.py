"""Client connections that have been upgraded (RFC 9110 §7.8), in an event loop: to a controller, over TCP or a socket.

Owns the way from an address and a request to a paused transport that belongs to the new protocol, or to the error that
the answer means. Knows nothing of the request's purpose.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from arv_ssh.errors import GatewayTimeout
from arv_ssh.net import upgrade
from arv_ssh.net.http_client import Address, ClientConnection, connect


@dataclass(frozen=True)
class UpgradeRequest:
    """A POST that asks to go on as ``protocol``, with ``form`` as its body."""

    path: str
    host: str
    headers: list[tuple[str, str]] = field(default_factory=list, repr=False)
    form: dict[str, str] = field(default_factory=dict, repr=False)
    protocol: str = "ssh"

    def send(self, connection: ClientConnection) -> None:
        """Send the request."""
        body = upgrade.form_body(self.form)
        headers = [("Host", self.host), *self.headers, *upgrade.form_headers(body, self.protocol)]
        connection.send("POST", self.path, headers, body)


@dataclass(frozen=True)
class Upgraded:
    """The result of a 101: the paused transport, the bytes that came with the answer, and the answer's headers."""

    transport: asyncio.Transport
    early: bytes
    headers: dict[str, str]


async def open_upgraded(address: Address, request: UpgradeRequest, *, answer_timeout: float) -> Upgraded:
    """Send ``request`` to ``address`` and return the connection once it has switched to the new protocol.

    Raises :class:`Unavailable` (cannot be reached), :class:`GatewayTimeout`, :class:`BadGateway` (not HTTP, or cut),
    and for any other answer the error that its status and sentence mean. ``answer_timeout`` is in seconds, from the
    request.
    """
    connection = await connect(address, request.protocol)
    try:
        request.send(connection)
        async with asyncio.timeout(answer_timeout):
            head = await connection.head()
            if head.status != 101:
                raise await connection.refusal(head)
        transport, early = connection.take_over()
        return Upgraded(transport, early, head.fields())
    except TimeoutError as error:
        connection.abort()
        raise GatewayTimeout(f"{address.name} did not answer in time") from error
    except BaseException:
        connection.abort()
        raise
