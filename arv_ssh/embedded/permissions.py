"""Who may read, write and manage which record: ownership, and links of class ``permission``.

Owns the reach of a user: the users and groups whose permissions are also theirs. A record that the user may not read is
answered as if it did not exist (404); one that may be read but not written is a 403.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, and_, bindparam, or_, select, true
from sqlalchemy.orm import InstrumentedAttribute

from arv_ssh import uuids
from arv_ssh.embedded.call import Call
from arv_ssh.embedded.models import (
    ApiClientAuthorization,
    Collection,
    Container,
    ContainerRequest,
    Group,
    Link,
    Record,
    User,
)
from arv_ssh.embedded.records import label, singular
from arv_ssh.errors import Forbidden, NotFound, Unprocessable

R = TypeVar("R", bound=Record)

READ, WRITE, MANAGE = 1, 2, 3
LEVELS = {"can_read": READ, "can_write": WRITE, "can_manage": MANAGE}
MAX_STEPS = 50
"""Depth of nested groups that permissions flow through. Each level costs every call a query: a colleague who shared a
chain of thousands would bring another user's calls to a halt. Anything further away is not reached."""
VERBS = {WRITE: "change", MANAGE: "manage"}


def levels(call: Call) -> dict[str, int]:
    """Return the caller's permissions on the things that links lead to: a level by UUID, the caller's own included."""
    if call.levels is None:
        reached = {call.user_uuid: MANAGE}
        frontier = {call.user_uuid}
        for _ in range(MAX_STEPS):
            if not frontier:
                break
            found = _next_step(call, reached, frontier)
            reached |= found
            frontier = {uuid for uuid, level in found.items() if _passes_on(uuid, level)}
        call.levels = reached
    return call.levels


def _next_step(call: Call, reached: dict[str, int], frontier: set[str]) -> dict[str, int]:
    """Return the UUIDs newly reached, or reached at a higher level, from ``frontier``."""
    found: dict[str, int] = {}
    links = select(Link.tail_uuid, Link.head_uuid, Link.name).where(
        Link.link_class == "permission", _one_of(Link.tail_uuid, frontier)
    )
    steps = [(tail, head, LEVELS.get(name or "", 0)) for tail, head, name in call.session.execute(links)]
    owned = select(Group.owner_uuid, Group.uuid).where(_one_of(Group.owner_uuid, frontier))
    steps += [(owner, uuid, MANAGE) for owner, uuid in call.session.execute(owned)]
    for start, end, limit in steps:
        level = min(reached[start or ""], limit)
        if end and level > max(reached.get(end, 0), found.get(end, 0)):
            found[end] = level
    return found


def _passes_on(uuid: str, level: int) -> bool:
    # A user's permissions pass to another only when that other manages the user (Arvados' rule).
    return uuids.kind(uuid) == uuids.GROUP or (uuids.kind(uuid) == uuids.USER and level == MANAGE)


def _owners(call: Call) -> set[str]:
    return {uuid for uuid, level in levels(call).items() if _passes_on(uuid, level)}


def _one_of(column: InstrumentedAttribute[Any], known: Iterable[str]) -> ColumnElement[bool]:
    """Return the condition that ``column`` is one of the UUIDs ``known``, however many a colleague has shared.

    They are written into the statement: databases limit its parameters (SQLite to 32,766, PostgreSQL to 65,535).
    """
    return column.in_(bindparam(None, sorted(known), expanding=True, literal_execute=True))


def readable(call: Call, model: type[Record], *, trashed: bool | None = None) -> ColumnElement[bool]:
    """Return the SQL condition for the records of ``model`` that the caller may read.

    ``trashed`` says whether those in the trash are among them; by default, as the caller has asked.
    """
    if model is Collection and not (call.include_trash if trashed is None else trashed):
        return and_(_reachable(call, model), not_in_trash(call))
    return _reachable(call, model)


def not_in_trash(call: Call) -> ColumnElement[bool]:
    """Return the SQL condition for collections that are not in the trash now."""
    return or_(Collection.trash_at.is_(None), Collection.trash_at > call.now)


def _reachable(call: Call, model: type[Record]) -> ColumnElement[bool]:
    if call.caller.is_admin:
        return true()
    if model is ApiClientAuthorization:
        return model.owner_uuid == call.user_uuid
    named = _one_of(model.uuid, [uuid for uuid in levels(call) if uuids.kind(uuid) == model.UUID_TYPE])
    if model is User:
        return named
    if model is Link:
        return or_(named, _one_of(Link.tail_uuid, _owners(call)), _one_of(Link.owner_uuid, _owners(call)))
    if model is Container:
        requests = select(ContainerRequest.container_uuid).where(
            ContainerRequest.container_uuid.is_not(None), readable(call, ContainerRequest)
        )
        return or_(named, Container.uuid.in_(requests))
    return or_(named, _one_of(model.owner_uuid, _owners(call)))


def level(call: Call, record: Record) -> int:
    """Return the caller's level on ``record``, which the caller can read."""
    if call.caller.is_admin:
        return MANAGE
    reached = levels(call)
    by_owner = reached.get(record.owner_uuid, 0) if record.owner_uuid in _owners(call) else 0
    return max(READ, reached.get(record.uuid, 0), by_owner)


def find(call: Call, model: type[R], uuid: str, needed: int = READ) -> R:
    """Return a record; raise :class:`NotFound` or, when only reading is allowed, :class:`Forbidden`."""
    record = None
    if uuids.kind(uuid):  # other text may hold characters that a database cannot even compare
        record = call.session.scalar(select(model).where(model.uuid == uuid, readable(call, model)))
    if record is None:
        kind = singular(model).replace("_", " ")
        shown = uuid if uuids.kind(uuid) else f"{uuid[:40]!r} (which is not a UUID)"
        raise NotFound(
            f"{kind} {shown} was not found among what user {call.user_uuid} may read on cluster "
            f"{call.config.cluster_id}; check the UUID and the token"
        )
    if level(call, record) < needed:
        raise Forbidden(f"user {call.user_uuid} may read {label(record)} but not {VERBS[needed]} it")
    return record


def check_owner(call: Call, owner_uuid: str) -> None:
    """Raise unless ``owner_uuid`` is a user or group to which the caller may give records."""
    model: type[Record] = Group if uuids.kind(owner_uuid) == uuids.GROUP else User
    known = call.session.get(model, owner_uuid) is not None
    allowed = known and (call.caller.is_admin or levels(call).get(owner_uuid, 0) >= WRITE)
    if not allowed:
        raise Unprocessable(f"owner_uuid {owner_uuid!r} is not a user or group that may own {call.user_uuid}'s records")
