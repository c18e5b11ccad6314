"""Who may enter a container: the decision table of ``Containers.ShellAccess``; and the mark that the first user leaves.

Pure: records come in, a refusal is raised. The order is the caller's promise: mode, then the token's scopes, then
reading the record (404 is the API's answer), then :func:`check_allowed`, then :func:`check_state`. Anything missing
from a record, or of another type than it should have, decides against the user; no record raises anything but
:class:`arv_ssh.errors.HttpError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from arv_ssh.config.cluster_config import ShellAccess
from arv_ssh.errors import ContainerEnded, Forbidden, Unavailable

Record = Mapping[str, Any]

ENDED = ("Complete", "Cancelled")
"""The states of a container that is over."""
REASON = 300
"""Letters of a reason that are shown: a workflow may have put a log into its runtime_status."""

MOST_REQUESTS = 2000
"""Requests of one container that are looked at. Nobody runs more at once by chance, and whoever makes 100,000 of them
must not keep the controller busy; beyond it only administrators may enter."""

FIRST_SESSION = "arv-ssh:interactive_session"
"""The key in a container's properties under which the first session is noted."""
SUBMITTER = "submitted_by_user_uuid"
"""The container request's attribute in which the embedded API keeps who committed it; stock Arvados does not have
it."""


def check_enabled(policy: ShellAccess) -> None:
    """Raise :class:`Unavailable` when shell access is off for the whole cluster."""
    if policy.mode == "disabled":
        raise Unavailable(
            "shell access is disabled on this cluster; its administrator can enable it (Containers.ShellAccess)"
        )


def check_scopes(token: Record, purpose: str) -> None:
    """Raise :class:`Forbidden` unless ``token`` (the API's record of it) is good for every request.

    ``purpose`` is what the caller wants to do, such as "entering containers".
    """
    scopes = token.get("scopes")
    if not isinstance(scopes, list | tuple) or "all" not in scopes:
        raise Forbidden(f"this token is limited to certain requests, which do not include {purpose}")


def user_uuid(user: Record) -> str:
    """Return whose token it is; raise :class:`Forbidden` when the API's answer does not say it."""
    uuid = user.get("uuid")
    if not isinstance(uuid, str) or not uuid:
        raise Forbidden("the API does not say whose token this is; tell the cluster's administrator")
    return uuid


def check_active(user: Record) -> None:
    """Raise :class:`Forbidden` for a deactivated user, even an administrator: the API still identifies that user."""
    if user.get("is_active") is not True:
        raise Forbidden(f"user {user_uuid(user)} is not active; ask an administrator")


def is_administrator(user: Record) -> bool:
    """Say whether the API calls this user an administrator."""
    return user.get("is_admin") is True


def request_attributes(*, embedded: bool) -> list[str]:
    """Return the container request attributes that decide; stock Arvados refuses to select one it does not have."""
    return ["uuid", "container_uuid", "modified_by_user_uuid", *([SUBMITTER] if embedded else [])]


def check_allowed(policy: ShellAccess, user: Record, container: Record, requests: Sequence[Record]) -> None:
    """Raise :class:`Forbidden` when ``user``, who can read ``container``, may not enter it.

    ``requests`` are all container requests that this container serves, readable to the user or not; of more than
    :data:`MOST_REQUESTS` the first ones are enough.
    """
    uuid = container.get("uuid")
    constraints = container.get("runtime_constraints")
    if not isinstance(constraints, Mapping):
        raise Forbidden(f"the API does not say whether container {uuid} may be entered; tell its administrator")
    requested = constraints.get("shell_access")
    if policy.mode == "default-off" and requested is not True:
        raise Forbidden(
            f"shell access to container {uuid} was not requested; submit it with shell_access: true in its "
            "runtime_constraints"
        )
    if requested is not None and requested is not True:
        raise Forbidden(f"container {uuid} was submitted with shell_access: false, so no one may enter it")
    if policy.admin and is_administrator(user):
        return
    if not policy.user:
        raise Forbidden(f"only administrators may enter container {uuid}: this cluster limits shell access to them")
    check_submitter(user, container, requests, "enter it")


def check_submitter(user: Record, container: Record, requests: Sequence[Record], action: str) -> None:
    """Raise :class:`Forbidden` unless ``user`` submitted all ``requests`` that ``container`` serves.

    ``action`` is what the user wants to do, such as "enter it".
    """
    if len(requests) > MOST_REQUESTS:
        raise Forbidden(
            f"container {container.get('uuid')} runs for more than {MOST_REQUESTS} requests, which are not looked "
            f"through; only administrators may {action}"
        )
    if not requests or not all(_submitted(request, container, user_uuid(user)) for request in requests):
        raise Forbidden(
            f"container {container.get('uuid')} runs for requests that other users submitted; "
            f"only a user who submitted all of them may {action}"
        )


def _submitted(request: Record, container: Record, user: str) -> bool:
    """Say whether the user submitted ``request``, which ``container`` serves.

    Stock Arvados shows only who last changed a request, and any user who can write it can rename it. The user for whom
    the container was made (and whose token is in it) never changes, so there both must be this user.
    """
    if request.get("container_uuid") != container.get("uuid"):
        return False  # nobody asked for this one: the answer is none to the question
    if request.get(SUBMITTER) is not None:
        return bool(request[SUBMITTER] == user)
    changed_last, made_for = request.get("modified_by_user_uuid"), container.get("runtime_user_uuid")
    return changed_last == user and made_for in (None, user)


def check_state(container: Record, now: datetime | None = None, longest_hold: float = 0) -> None:
    """Raise unless the container is running and has a gateway: 503 before that, 410 after.

    ``longest_hold`` is the time in seconds that containers of this cluster may ask to be kept up for after a failure.
    """
    uuid, state = container.get("uuid"), container.get("state")
    if state in ENDED:
        ending = _ending(container, now or datetime.now(UTC))
        raise ContainerEnded(
            f"container {uuid} has ended ({ending}){_reason(container)}{_what_is_left(container)}"
            f"{_how_to_hold(container, longest_hold)}"
        )
    if state != "Running":
        raise Unavailable(
            f"container {uuid} is not running yet (it is {state}){_reason(container)}; try again when it is Running"
        )
    address = container.get("gateway_address")
    if not isinstance(address, str) or not address:
        raise Unavailable(f"container {uuid} is running without a gateway, so it cannot be entered")


def mark(container: Record, user_uuid: str, request_id: str, now: datetime) -> dict[str, Any]:
    """Return the attributes that mark ``container`` as entered, and by whom and when if its record has room for that.

    Containers of stock Arvados have no ``properties``: there, only the controller's log and audit say who entered.
    """
    marked: dict[str, Any] = {"interactive_session_started": True}
    if isinstance(container.get("properties"), Mapping):
        at = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        noted = {"user_uuid": user_uuid, "at": at, "request_id": request_id}
        marked["properties"] = {**container["properties"], FIRST_SESSION: noted}
    return marked


def _reason(container: Record) -> str:
    """Return what failed, from the runtime_status: for example, that no engine answers, or a workflow's failed step."""
    status = container.get("runtime_status")
    error = status.get("error") if isinstance(status, Mapping) else None
    text = " ".join(str(error or "").split())
    return f": {text if len(text) <= REASON else text[: REASON - 1] + '…'}" if text else ""


def _what_is_left(container: Record) -> str:
    """Say where an ended container's log and output are, as its record has it."""
    places = [f"its {name} is {_place(container[name])}" for name in ("log", "output") if container.get(name)]
    return f"; {' and '.join(places)}" if places else ""


def _place(value: Any) -> str:
    """Return a place for reading: a collection's address, or a directory of the node, where there is no Keep."""
    text = str(value)
    if text.startswith("file://"):
        return f"in {unquote(text.removeprefix('file://'))} on its node"
    return f"collection {text}"


def _how_to_hold(container: Record, longest: float) -> str:
    """Say how the next container can be entered after a failure, where this one was not asked to wait."""
    asked = (container.get("runtime_constraints") or {}).get("hold_on_failure")
    if not longest or asked or not container.get("exit_code"):
        return ""
    return f"; with hold_on_failure: {longest:.0f} in its runtime_constraints, the next one that fails waits for you"


def _ending(container: Record, now: datetime) -> str:
    parts = [str(container["state"])]
    if container.get("exit_code") is not None:
        parts.append(f"exit {container['exit_code']}")
    try:
        seconds = int((now - datetime.fromisoformat(container["finished_at"])).total_seconds())
    except (KeyError, TypeError, ValueError):
        return ", ".join(parts)  # not recorded, or not as a time
    parts.append(f"{_duration(max(0, seconds))} ago")
    return ", ".join(parts)


def _duration(seconds: int) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
