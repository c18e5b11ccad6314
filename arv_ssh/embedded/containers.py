"""Containers of the embedded API: the state machine, the lock, and who may record what in which state.

Owns a container's life from Queued to its end, and the token that lives as long as its lock.
:mod:`arv_ssh.embedded.matching` ties it to requests.
"""

from __future__ import annotations

from sqlalchemy import select

from arv_ssh.embedded import collections, manifests, published_ports, records, results, tokens
from arv_ssh.embedded.call import Attributes, Call
from arv_ssh.embedded.matching import container_ended
from arv_ssh.embedded.models import (
    CANCELLED,
    COMPLETE,
    ENDED,
    LOCKED,
    QUEUED,
    RUNNING,
    ApiClientAuthorization,
    Container,
)
from arv_ssh.errors import Forbidden, NotFound, Unprocessable
from arv_ssh.trust.access import FIRST_SESSION

TRANSITIONS: dict[str, tuple[str, ...]] = {
    QUEUED: (LOCKED, CANCELLED),
    LOCKED: (QUEUED, RUNNING, CANCELLED),
    RUNNING: (COMPLETE, CANCELLED),
    COMPLETE: (CANCELLED,),
    CANCELLED: (),
}

PROGRESS = frozenset({
    "cost", "exit_code", "log", "output", "output_properties", "progress", "runtime_status", "subrequests_cost",
})  # fmt: skip
"""The attributes that only the holder of the lock, and the container's own token, may record."""
PERMITTED: dict[str, frozenset[str]] = {
    QUEUED: frozenset({"priority"}),
    LOCKED: frozenset({"log", "priority", "runtime_status"}),
    RUNNING: PROGRESS | {"gateway_address", "interactive_session_started", "priority", "properties"},
    COMPLETE: frozenset(),
    CANCELLED: frozenset(),
}
"""The attributes that may be recorded in each state of a container (the new one, when the same change sets it)."""
ON_THE_WAY: dict[tuple[str, str], frozenset[str]] = {
    (LOCKED, RUNNING): frozenset({"started_at"}),
    (RUNNING, COMPLETE): PROGRESS | {"finished_at"},
    (RUNNING, CANCELLED): PROGRESS | {"finished_at"},
    (LOCKED, CANCELLED): frozenset({"cost", "finished_at", "log", "runtime_status"}),
    (QUEUED, CANCELLED): frozenset({"cost", "finished_at", "log", "runtime_status"}),
}
"""The attributes that may also be recorded together with a step, and neither before it nor after."""
STATUS_TEXTS = frozenset({"error", "errorDetail", "warning", "warningDetail", "activity", "preemptionNotice"})
"""The keys of ``runtime_status`` that every client shows as text."""
NOT_BY_ITSELF = frozenset({"interactive_session_started", "priority", "properties"})
"""The attributes that a container's own token may not record: they belong to the controller and the users."""


def update(call: Call, container: Container, attributes: Attributes) -> None:
    """Record a change; raise :class:`Unprocessable` when the container's state forbids it."""
    _check_may_update(call, container)
    changed = records.changes(container, attributes)
    old, new = container.state, changed.pop("state", container.state)
    if new != old:
        check_step(container, new)
    if call.caller.token_uuid == container.auth_uuid:
        _refuse_other_tokens_part(container, changed, old, new)
    else:
        _refuse_other_dispatchers_part(call, container, changed)
    permitted = PERMITTED[new] | ON_THE_WAY.get((old, new), frozenset())
    records.refuse(container, changed, permitted, f"while it is {new}" if new == old else f"on the way to {new}")
    _check_values(call, container, changed)
    _keep_first_session(container, changed)
    records.apply(call, container, changed)
    if new != old:
        _step(call, container, new)
    elif "log" in changed:
        results.keep_log(call, container)


def _step(call: Call, container: Container, new: str) -> None:
    if new == LOCKED:
        lock(call, container)
    elif new == QUEUED:
        unlock(call, container)
    else:
        _enter(call, container, new)


def _check_values(call: Call, container: Container, changed: Attributes) -> None:
    if changed.get("interactive_session_started") is False:
        raise Unprocessable(f"interactive_session_started of {records.label(container)} cannot be taken back")
    for key, value in (changed.get("runtime_status") or {}).items():
        if key in STATUS_TEXTS and not isinstance(value, str):
            raise Unprocessable(f"{key} in runtime_status of {records.label(container)} must be a string")
    log, output = changed.get("log"), changed.get("output")
    _check_content(call, container, "log", log if log and manifests.is_hash(log) else None)
    _check_content(call, container, "output", output)


def _check_content(call: Call, container: Container, name: str, value: str | None) -> None:
    """Refuse what the caller may not read: the container's requests get copies of it, by its hash alone."""
    if value is not None and collections.readable_content(call, value) is None:
        raise Unprocessable(
            f"{name} of {records.label(container)} must be the portable data hash of a collection that user "
            f"{call.user_uuid} may read, not {value[:60]!r}"
        )


def _keep_first_session(container: Container, changed: Attributes) -> None:
    """Keep the note of the first session: two sessions that begin at once would each note themselves."""
    noted = container.properties.get(FIRST_SESSION)
    if noted is not None and "properties" in changed:
        changed["properties"] = {**(changed["properties"] or {}), FIRST_SESSION: noted}


def _check_may_update(call: Call, container: Container) -> None:
    if not call.caller.is_admin and call.caller.token_uuid != container.auth_uuid:
        raise Forbidden(
            f"user {call.user_uuid} may read {records.label(container)} but not change it; "
            "change the priority of its container request (0 cancels)"
        )


def _refuse_other_tokens_part(container: Container, changed: Attributes, old: str, new: str) -> None:
    for name in sorted(NOT_BY_ITSELF & changed.keys()):
        raise Forbidden(f"the token of {records.label(container)} itself may not change its {name}")
    if "log" in changed and (old, new) == (RUNNING, RUNNING):
        raise Forbidden(f"the token of {records.label(container)} itself may not change its log while it is Running")
    if new == QUEUED:
        raise Forbidden(f"the token of {records.label(container)} itself may not unlock it; its dispatcher may")


def _refuse_other_dispatchers_part(call: Call, container: Container, changed: Attributes) -> None:
    if container.locked_by_uuid in (None, call.caller.token_uuid):
        return
    for name in sorted(PROGRESS & changed.keys()):
        raise Unprocessable(
            f"{name} of {records.label(container)} cannot be changed with this token: it was locked with another one"
        )


def check_step(container: Container, new: str) -> None:
    """Raise :class:`Unprocessable` unless a step leads from the container's state to ``new``."""
    steps = TRANSITIONS[container.state]
    if new not in steps:
        allowed = f"only {' or '.join(steps)}" if steps else "nothing else any more"
        raise Unprocessable(f"{records.label(container)} is {container.state} and cannot become {new!r}, {allowed}")


def lock(call: Call, container: Container) -> None:
    """Take a Queued container for the calling dispatcher and make the container's token."""
    _check_dispatcher(call, container)
    check_step(container, LOCKED)
    if container.priority <= 0:
        raise Unprocessable(f"{records.label(container)} cannot be locked: its priority is 0 (cancelled)")
    requester = container.runtime_user_uuid or call.user_uuid
    token = tokens.create_for_container(call, container, requester)
    call.session.flush()  # the token first: the container refers to it
    container.auth_uuid = token.uuid
    container.locked_by_uuid = call.caller.token_uuid
    container.lock_count += 1
    records.apply(call, container, {"state": LOCKED})


def unlock(call: Call, container: Container) -> None:
    """Give a Locked container back to the queue, or cancel it when that has happened too often."""
    _check_dispatcher(call, container)
    if container.state != LOCKED:
        raise Unprocessable(f"{records.label(container)} is {container.state}, so it has no lock to remove")
    if container.locked_by_uuid != call.caller.token_uuid:
        raise Unprocessable(f"{records.label(container)} was locked with another token; only that one can unlock")
    _release(call, container)
    records.apply(call, container, {"state": QUEUED, "runtime_status": {}})  # of the attempt that is over
    if container.lock_count >= call.config.max_dispatch_attempts:
        error = f"cancelled after {container.lock_count} attempts to start it (Containers.MaxDispatchAttempts)"
        container.runtime_status = {"error": error}
        _enter(call, container, CANCELLED)


def _check_dispatcher(call: Call, container: Container) -> None:
    if not call.caller.is_admin:
        raise Forbidden(f"only a dispatcher, with an administrator's token, may lock or unlock {container.uuid}")


def _enter(call: Call, container: Container, state: str) -> None:
    """Apply the effects of being in ``state``."""
    container.state = state
    if state == RUNNING and container.started_at is None:
        container.started_at = call.now
    if state == RUNNING:
        published_ports.assign(call, container)
    if state in ENDED:
        container.finished_at = container.finished_at or call.now
        _release(call, container)
        container_ended(call, container)


def _release(call: Call, container: Container) -> None:
    """Take the lock and the container's token away."""
    token_uuid, container.auth_uuid, container.locked_by_uuid = container.auth_uuid, None, None
    call.session.flush()
    if token_uuid is not None:
        call.session.delete(call.session.get_one(ApiClientAuthorization, token_uuid))


def auth(call: Call, container: Container) -> tuple[ApiClientAuthorization, str]:
    """Return a locked container's token and its secret to the dispatcher that locked it."""
    if container.auth_uuid is None or container.locked_by_uuid != call.caller.token_uuid:
        raise Forbidden(f"{records.label(container)} is {container.state} and not locked with this token")
    token = call.session.get_one(ApiClientAuthorization, container.auth_uuid)
    return token, tokens.container_secret(call.config, token.uuid)


def current(call: Call) -> Container:
    """Return the container that this token belongs to."""
    container = call.session.scalar(select(Container).where(Container.auth_uuid == call.caller.token_uuid))
    if container is None:
        raise NotFound(f"API token {call.caller.token_uuid} is not a container's; ask for the container by its UUID")
    return container


def check_own(call: Call, container: Container) -> None:
    """Raise :class:`Forbidden` unless the caller's token is the container's own: what it mounts may be secret."""
    if container.auth_uuid is None or container.auth_uuid != call.caller.token_uuid:
        raise Forbidden(f"secret_mounts of {records.label(container)} can be read with its own token only")


def refuse_create(call: Call, attributes: Attributes) -> Container:
    """Raise: a container comes from a committed container request."""
    raise Forbidden("containers are not created directly; create a container_request with state Committed")


def refuse_delete(call: Call, container: Container) -> None:
    """Raise: a container is history, and other records point to it."""
    raise Forbidden(f"{records.label(container)} cannot be deleted; set the priority of its requests to 0 to cancel it")
