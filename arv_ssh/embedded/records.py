"""Records of the embedded API, in and out: the JSON shape, the types of attributes, new records and their owners.

Owns that a wrong attribute is a 422 with a sentence. Each resource's own module rules what may change when.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import JSON, Boolean, Column, Float, Integer, inspect

from arv_ssh import uuids
from arv_ssh.embedded.call import Attributes, Call
from arv_ssh.embedded.models import KINDS, Record, UtcDateTime
from arv_ssh.embedded.params import loads
from arv_ssh.errors import BadRequest, Forbidden, Unprocessable

R = TypeVar("R", bound=Record)

MAX_INTEGER = 2**31 - 1
"""The largest value of an integer attribute in Arvados' own database."""
COMPUTED = frozenset({
    "kind", "etag", "href", "full_name", "is_invited", "head_kind", "tail_kind", "api_token", "created_by_ip_address",
    "last_used_at", "last_used_by_ip_address", "current_version_uuid", "file_count", "file_size_total",
    "preserve_version", "replication_confirmed", "replication_confirmed_at", "storage_classes_confirmed",
    "storage_classes_confirmed_at", "version",
})  # fmt: skip
"""Parts of records that are never taken from a client, but ignored, so that a record can be sent back as it came."""


def singular(model: type[Record]) -> str:
    """Return the resource's name in the singular: container_request."""
    return str(model.__tablename__).removesuffix("s")


def label(record: Record) -> str:
    """Return how a message names the record: ``container zzzzz-dz642-…``."""
    return f"{singular(type(record)).replace('_', ' ')} {record.uuid}"


def columns(model: type[Record]) -> dict[str, Column[Any]]:
    """Return the attributes that are stored and shown, in alphabetical order."""
    return {column.key: column for column in sorted(inspect(model).columns, key=lambda column: column.key)
            if column.key not in model.HIDDEN}  # fmt: skip


def render(record: Record, select: Collection[str] | None = None) -> dict[str, Any]:
    """Return the record as clients see it; with ``select`` only those attributes (and the kind, as Arvados does)."""
    shown: dict[str, Any] = {
        "href": f"/{record.__tablename__}/{record.uuid}",
        "kind": KINDS[record.UUID_TYPE],
        "etag": hashlib.sha256(f"{record.uuid} {record.modified_at}".encode()).hexdigest()[:24],
    }
    for name in columns(type(record)):
        value = getattr(record, name)
        shown[name] = timestamp(value) if isinstance(value, datetime) else value
    shown |= record.computed()
    if select is None:
        return shown
    return {name: value for name, value in shown.items() if name in select or name == "kind"}


def timestamp(value: datetime) -> str:
    """Return a time as Arvados writes it."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def parse_time(text: str) -> datetime | None:
    """Read an ISO 8601 time (UTC when it names no zone); None when it is not one."""
    try:
        value = datetime.fromisoformat(text)
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def typed(model: type[Record], raw: Mapping[str, Any], *, is_form: bool = False) -> Attributes:
    """Return ``raw`` checked against the model's attributes; raise :class:`Unprocessable` naming any misfit."""
    known = columns(model)
    attributes = {}
    for name, value in raw.items():
        if name in COMPUTED:
            continue
        if name not in known:
            raise Unprocessable(f"a {singular(model).replace('_', ' ')} has no attribute {name!r}")
        if is_form and isinstance(value, str) and isinstance(known[name].type, JSON | Boolean | Integer | Float):
            value = loads(value, name)
        attributes[name] = typed_value(known[name], value)
    return attributes


def typed_value(column: Column[Any], value: Any) -> Any:
    """Return one JSON value as the column's Python type; null stays None."""
    if value is None:
        return None
    if isinstance(column.type, JSON):
        return _checked(column, value, column.info["shape"], "a JSON object" if column.info["shape"] is dict else
                        "a JSON array")  # fmt: skip
    if isinstance(column.type, Boolean):
        return _checked(column, value, bool, "true or false")
    if isinstance(column.type, Integer):
        if type(value) is not int or abs(value) > MAX_INTEGER:
            raise Unprocessable(f"{column.key} must be an integer of at most {MAX_INTEGER}, not {_short(value)}")
        return value
    if isinstance(column.type, Float):
        return _float(column, _checked(column, value, int | float, "a number"))
    _checked(column, value, str, "a string")
    if isinstance(column.type, UtcDateTime):
        moment = parse_time(value)
        if moment is None:
            raise Unprocessable(f"{column.key} must be a time such as 2030-01-31T12:00:00Z, not {_short(value)}")
        return moment
    return value


def _checked(column: Column[Any], value: Any, wanted: Any, words: str) -> Any:
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise Unprocessable(f"{column.key} must be {words}, not {_short(value)}")
    return value


def _float(column: Column[Any], number: int | float) -> float:
    try:
        return float(number)
    except OverflowError as error:  # an integer of more than 308 digits
        raise Unprocessable(f"{column.key} must be a number below 1e308, not {_short(number)}") from error


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "…"


def changes(record: Record, attributes: Attributes) -> Attributes:
    """Return those attributes that would change the record."""
    return {name: value for name, value in attributes.items() if not _same(getattr(record, name), value)}


def _same(current: Any, value: Any) -> bool:
    if isinstance(current, dict | list):  # in Python 1 == True, in JSON they differ
        return json.dumps(current, sort_keys=True) == json.dumps(value, sort_keys=True)
    return bool(current == value)


def apply(call: Call, record: Record, changed: Attributes) -> None:
    """Set the attributes and note who changed the record when; :func:`changes` and the resource's rules come first."""
    known = columns(type(record))
    for name, value in changed.items():
        if value is None and not known[name].nullable:
            raise Unprocessable(f"{name} of {label(record)} cannot be null")
        setattr(record, name, value)
    record.modified_at = call.now
    if "modified_by_user_uuid" not in changed:
        record.modified_by_user_uuid = call.user_uuid


def refuse(record: Record, changed: Attributes, permitted: Collection[str], reason: str) -> None:
    """Raise :class:`Unprocessable` when anything but ``permitted`` would change; ``reason`` says when."""
    for name in changed:
        if name not in permitted:
            raise Unprocessable(f"{name} of {label(record)} cannot be changed {reason}")


def new(call: Call, model: type[R], attributes: Attributes, permitted: Collection[str]) -> R:
    """Return a new record, not yet in the session, with the attributes that a client may give.

    An administrator may also name the UUID, as fixtures do. Null means the default.
    """
    given = {name: value for name, value in attributes.items() if value is not None}
    for name in given:
        if name == "uuid" and not call.caller.is_admin:
            raise Forbidden("only an administrator may choose the uuid of a record")
        if name not in permitted and name != "uuid":
            raise Unprocessable(f"{name} of a new {singular(model).replace('_', ' ')} cannot be set")
    uuid = given.pop("uuid", None) or uuids.new(call.config.cluster_id, model.UUID_TYPE)
    if uuids.kind(uuid) != model.UUID_TYPE:
        raise BadRequest(f"{uuid!r} is not the UUID of a {singular(model).replace('_', ' ')}")
    if call.session.get(model, uuid) is not None:
        raise Unprocessable(f"uuid {uuid} is already taken")
    stamps: Attributes = {
        "uuid": uuid, "owner_uuid": call.user_uuid, "created_at": call.now, "modified_at": call.now,
        "modified_by_user_uuid": call.user_uuid,
    }  # fmt: skip
    record = model(**(stamps | given))
    _fill_defaults(record)
    return record


def _fill_defaults(record: Record) -> None:
    """Set the columns' defaults now: the rules look at the record before it is written."""
    for name, column in columns(type(record)).items():
        if getattr(record, name) is None and column.default is not None:
            default: Any = column.default
            setattr(record, name, default.arg(None) if default.is_callable else default.arg)
