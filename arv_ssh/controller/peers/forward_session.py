"""Passing a client's request on to another controller: the one that has the tunnel of the container's gateway.

Owns what is sent along: the user's own token, the form, and ``no_forward``, which lets a request be passed on at most
once.
"""

from __future__ import annotations

import ssl

from arv_ssh.errors import Unavailable
from arv_ssh.net.http_client import address_of
from arv_ssh.net.http_messages import Request, peer_address
from arv_ssh.net.upgrade import SAME_USERNAME
from arv_ssh.net.upgraded import Upgraded, UpgradeRequest, open_upgraded
from arv_ssh.resume import negotiation

ANSWER_TIMEOUT = 60.0
"""Seconds for the other controller's answer: it asks the API and the gateway, as this one would have."""
_HEADERS = (
    "X-Arvados-Ssh-Host-Key", "X-Arvados-Ssh-Other-Host-Keys", "X-Arvados-Ssh-User-Credential", "Server-Timing",
    negotiation.HEADER,
)  # fmt: skip
_TRUE = ("1", "t", "true")


async def pass_on(url: str, uuid: str, request: Request, context: ssl.SSLContext) -> Upgraded:
    """Ask the controller at ``url``, one of the cluster's, for the session that ``request`` asks for.

    Raises its refusal, or :class:`Unavailable` for a request that was passed on already.
    """
    form = request.form()
    if form.get("no_forward", "").lower() in _TRUE:
        raise Unavailable(
            f"the gateway of container {uuid} now has its tunnel at another controller ({url}); try again"
        )
    headers = [
        ("Authorization", request.headers.get("authorization", "")),
        ("X-Request-Id", request.request_id),
        ("X-Forwarded-For", peer_address(request)),
        *([SAME_USERNAME] if has_same_username(request) else []),
    ]
    if resume := request.headers.get(negotiation.HEADER.lower()):
        headers.append((negotiation.HEADER, resume))
    controller = address_of(url, context)
    fields = {name: form.get(name, "") for name in ("detach_keys", "login_username")} | {"no_forward": "true"}
    path = f"/arvados/v1/containers/{uuid}/ssh"
    asked = UpgradeRequest(path, controller.host, headers, fields)
    return await open_upgraded(controller, asked, answer_timeout=ANSWER_TIMEOUT)


def has_same_username(request: Request) -> bool:
    """Say whether the client's SSH user name is the login name that it asks for."""
    name, value = SAME_USERNAME
    return request.headers.get(name.lower()) == value


def headers_for_client(passed: Upgraded) -> list[tuple[str, str]]:
    """Return those headers of the other controller's answer that are for the client."""
    return [(name, passed.headers[name.lower()]) for name in _HEADERS if name.lower() in passed.headers]
