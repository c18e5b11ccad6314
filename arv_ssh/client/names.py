"""``NAME.arv``: the caller's newest running container request of that name.

ssh gives host names in lower case and without spaces, so upper and lower case are the same here, and ``_`` stands for
any one character. A name may be cut short where only one request is meant.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from arv_ssh.client.listing import page
from arv_ssh.client.messages import tell
from arv_ssh.errors import BadRequest, NotFound, Unavailable, Unprocessable, UsageError

if TYPE_CHECKING:
    from arv_ssh.client.controller import Controller

LOOKED_AT = 100
"""Requests of the name that are looked at, the newest: an answer of more would be cut."""
LISTED = 5
"""Candidates that an error names."""
_NAME = re.compile(r"[^/%\\\x00-\x1f]+")


def find(controller: Controller, name: str, *, waiting: bool = False) -> str:
    """Return the UUID of the container of the caller's newest running request called ``name``.

    With ``waiting`` one that is still in the queue counts as well as one that runs.
    Another one that runs under the same name is mentioned on stderr. Raise :class:`UsageError` when ``name`` is the
    beginning of several names, :class:`NotFound` or :class:`Unavailable` when nothing of it runs.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a container request name; give a name or a UUID")
    requests = _requests(controller, name)
    if not requests:
        raise NotFound(
            f"you have no container request called {name!r} on {controller.settings.authority}; "
            "check the name, or give a UUID"
        )
    states = ["Running", "Locked", "Queued"] if waiting else ["Running"]
    running = _in_state(controller, states, [request["container_uuid"] for request in requests])
    alive = [request for request in requests if request["container_uuid"] in running]
    if not alive:
        newest = requests[0]
        raise Unavailable(
            f"no container request called {name!r} has a running container; the newest is {newest['name']!r} "
            f"({newest['uuid']}); try again when it runs"
        )
    chosen = _choose(name, alive)
    return str(chosen["container_uuid"])


def _choose(name: str, alive: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the newest of those that have the name itself; else the only one whose name begins so."""
    pattern = re.compile("".join("." if letter == "_" else re.escape(letter) for letter in name), re.IGNORECASE)
    for same in (
        [request for request in alive if request["name"].lower() == name.lower()],
        [request for request in alive if pattern.fullmatch(request["name"])],
    ):
        if len({request["container_uuid"] for request in same}) > 1:
            tell(
                f"{name}.arv is {same[0]['uuid']}, the newest of {len(same)} that are running; "
                f"the others: {_list(same[1:])}"
            )
        if same:
            return same[0]
    if len({request["container_uuid"] for request in alive}) > 1:
        raise UsageError(f"{name}.arv could be any of {_list(alive)}; give more of the name, or a UUID")
    return alive[0]


def _list(requests: list[dict[str, Any]]) -> str:
    shown = ", ".join(f"{request['name']} ({request['uuid']})" for request in requests[:LISTED])
    return shown + (f", and {len(requests) - LISTED} more" if len(requests) > LISTED else "")


def _requests(controller: Controller, name: str) -> list[dict[str, Any]]:
    me = controller.get("users/current", "user of this token").get("uuid")
    if not isinstance(me, str):
        raise controller.without("user of this token")
    try:
        return _submitted(controller, name, "submitted_by_user_uuid", me)
    except (BadRequest, Unprocessable):
        # Stock Arvados has no such attribute. It knows only who changed a request last: whoever renames a colleague's
        # request takes its name along.
        return _submitted(controller, name, "modified_by_user_uuid", me)


def _submitted(controller: Controller, name: str, attribute: str, user: str) -> list[dict[str, Any]]:
    return page(
        controller,
        "container_requests",
        filters=[
            ["name", "ilike", f"{name}%"],
            [attribute, "=", user],
            ["state", "=", "Committed"],
            ["container_uuid", "!=", None],
        ],
        select=["uuid", "name", "container_uuid", "created_at"],
        order=["created_at desc"],
        limit=LOOKED_AT,
    )


def _in_state(controller: Controller, states: list[str], containers: list[str]) -> set[str]:
    filters = [["uuid", "in", sorted(set(containers))], ["state", "in", states]]
    found = page(controller, "containers", filters=filters, select=["uuid"], limit=LOOKED_AT)
    return {item["uuid"] for item in found}
