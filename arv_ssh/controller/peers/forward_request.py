"""Passing a user's HTTP request on to another controller: the one that has the tunnel of the container's gateway.

Owns what is sent along, as stock Arvados' controllers expect it: everything that came, and the word that lets a request
be passed on at most once (the header ``X-Arvados-No-Forward``, or ``no_forward`` in a query).
"""

from __future__ import annotations

import ssl

from arv_ssh.controller.gateways.requests import SILENCE, Watch
from arv_ssh.controller.reverse_proxy import STALL_TIMEOUT, about_client
from arv_ssh.errors import Unavailable
from arv_ssh.net import http_relay
from arv_ssh.net.http_client import address_of, connect
from arv_ssh.net.http_messages import Request, StreamedResponse, Upgrade
from arv_ssh.net.http_relay import protocol_of, request_headers

NO_FORWARD = "x-arvados-no-forward"
_TRUE = ("1", "t", "true")
_REPLACED = (NO_FORWARD.encode(), b"x-forwarded-for", b"x-forwarded-proto", b"x-request-id")


async def pass_on(
    url: str, uuid: str, request: Request, target: str, context: ssl.SSLContext, watch: Watch
) -> StreamedResponse | Upgrade:
    """Ask the controller at ``url``, one of the cluster's, for ``target``; return its answer.

    It has made the headers for the client already. Raises :class:`Unavailable` for a request that was passed on, and
    where the other controller cannot be reached.
    """
    try:
        if _was_passed_on(request):
            raise Unavailable(
                f"the gateway of container {uuid} now has its tunnel at another controller ({url}); try again"
            )
        protocol = protocol_of(request)
        connection = await connect(address_of(url, context), protocol, SILENCE)
    except BaseException:
        watch.done()
        raise
    headers = [*request_headers(request, _REPLACED, protocol), *about_client(request), (NO_FORWARD.encode(), b"1")]
    return await http_relay.pass_on(
        connection, request, target, headers, stall=STALL_TIMEOUT, joined=watch.joined, done=watch.done
    )


def _was_passed_on(request: Request) -> bool:
    by_query = "no_forward" in request.query and request.form().get("no_forward", "").lower() in _TRUE
    return by_query or NO_FORWARD in request.headers
