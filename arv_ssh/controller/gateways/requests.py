"""A user's request passed on to a container's gateway: for the container's log, or for one of its ports.

Owns the proofs of such an exchange and which headers are between the controller and the gateway alone. Must not know
who asks, nor why they may. One request a connection, as with stock Arvados.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from arv_ssh.controller.gateways.dial import RESPONSE_HEADER, Gateway
from arv_ssh.net import http_relay
from arv_ssh.net.http_client import Head
from arv_ssh.net.http_messages import Request, StreamedResponse, Upgrade
from arv_ssh.net.http_relay import Headers, protocol_of
from arv_ssh.net.relay import Relay

SILENCE = 900.0
"""Seconds that an exchange may go without a byte: programs think, and server-sent events may have nothing to say. A
WebSocket may be silent for ever."""


def for_gateway(name: bytes) -> bool:
    """Say whether a header has a meaning between controllers and gateways, so that no client may send it."""
    return name.startswith((b"x-arvados-", b"x-webdav-"))


@dataclass(frozen=True)
class Watch:
    """The owner's part in an exchange, as for :func:`http_relay.pass_on`; ``shown`` makes the client's headers."""

    shown: Callable[[Headers], Headers] = lambda headers: headers
    joined: Callable[[Relay], object] = lambda relay: None
    done: Callable[[], object] = lambda: None


async def pass_on(
    gateway: Gateway, request: Request, target: str, headers: Headers, watch: Watch
) -> StreamedResponse | Upgrade:
    """Send ``request`` to ``gateway`` with ``headers``; return its proven answer.

    Raises :class:`Unavailable` (cannot be reached), :class:`GatewayTimeout` or :class:`BadGateway` (proves nothing).
    """
    try:
        http, proof = await gateway.connect(protocol_of(request), SILENCE)
    except BaseException:
        watch.done()
        raise

    def check(head: Head) -> Headers:
        gateway.check(head, proof)
        return watch.shown([pair for pair in head.headers if pair[0].decode("latin-1") != RESPONSE_HEADER])

    own = [
        (b"x-arvados-container-gateway-uuid", gateway.uuid.encode()),
        (b"x-arvados-authorization", proof.encode()),
    ]
    return await http_relay.pass_on(
        http, request, target, [*headers, *own], stall=SILENCE, check=check, joined=watch.joined, done=watch.done
    )
