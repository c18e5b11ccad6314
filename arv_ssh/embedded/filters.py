"""Lists of the embedded API: ``filters``, ``select``, ``order``, ``limit``, ``offset``, ``count``.

Owns the reading of these parameters (Arvados' "Common resource methods") and the SQL they become; how the database
treats upper and lower case in LIKE belongs to :mod:`arv_ssh.embedded.store`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import JSON, Boolean, Column, ColumnElement, Float, Integer, Select, and_, func, or_, select
from sqlalchemy.orm import Session

from arv_ssh.embedded import records
from arv_ssh.embedded.models import KINDS, Record, UtcDateTime
from arv_ssh.embedded.params import loads
from arv_ssh.errors import Unprocessable

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
"""Records in one answer at most, as Arvados' MaxItemsPerResponse; a client asks for the rest with ``offset``."""
MAX_FILTERS = 100
MAX_OPERANDS = 10_000
"""Operands of all ``in`` terms in one list: three times what fits in a URL, a third of SQLite's limit for a
statement."""
MAX_ORDER = 20
"""Terms of ``order``; there are not many more attributes, and SQLite takes 2,000."""
MAX_SIZE = 32 * 1024 * 1024
"""Characters of JSON after which a list ends early, as with Arvados' MaxIndexDatabaseRead: a record can have 8 MB, so
a thousand of them would fill the controller's memory. The client asks for the rest, as after any page."""
FETCHED = 8
"""Records that are read from the database at once."""
MAX_PATTERN = 256
"""Characters of a LIKE pattern: the longest host name (253), as which a request's name is looked for, and a %."""
MATCHED_TEXT = 4096
"""Characters of a text that LIKE looks at, from its beginning. Matching takes up to the pattern's length times the
text's: a million steps here, some milliseconds a record. A text of 8 MB would keep a thread for seconds, or for minutes
with a long pattern."""
MAX_PATTERNS = 10
"""LIKE patterns in one list; each is matched against each record."""
_UUID_TYPES = {kind: uuid_type for uuid_type, kind in KINDS.items()}
_PATTERN_OPERATORS = ("like", "ilike")
_COMPARISONS: dict[str, Callable[[Column[Any], Any], ColumnElement[bool]]] = {
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
}


def answer(
    session: Session, model: type[Record], condition: ColumnElement[bool], fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the list of ``model``'s records that ``condition`` and the parameters in ``fields`` choose."""
    chosen = and_(condition, *filters(model, _json(fields, "filters")))
    shown = selected(model, fields) or _listed(model)
    limit = min(_natural(fields, "limit", DEFAULT_LIMIT), MAX_LIMIT)
    offset = _natural(fields, "offset", 0)
    statement = select(model).where(chosen).order_by(*order(model, fields.get("order")))
    items = _page(session, statement.limit(limit).offset(offset), shown) if limit else []
    listing: dict[str, Any] = {
        "kind": f"{KINDS[model.UUID_TYPE]}List", "etag": "", "self_link": "", "offset": offset, "limit": limit,
        "items": items,
    }  # fmt: skip
    if fields.get("count") not in (None, "", "exact", "none"):
        raise Unprocessable("count must be exact or none")
    if fields.get("count") != "none":
        listing["items_available"] = session.scalar(select(func.count()).select_from(model).where(chosen))
    return listing


def _page(session: Session, statement: Select[Any], shown: frozenset[str] | None) -> list[dict[str, Any]]:
    """Return the records as clients see them, as many as fit in :data:`MAX_SIZE`, and at least one."""
    items: list[dict[str, Any]] = []
    size = 0
    with session.scalars(statement.execution_options(yield_per=FETCHED)) as found:
        for record in found:
            items.append(records.render(record, shown))
            session.expunge(record)  # or the session would keep records that are not shown
            size += len(json.dumps(items[-1]))
            if size > MAX_SIZE:
                break
    return items


def selected(model: type[Record], fields: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the attributes named by ``select``, or None for all of them."""
    wanted = _json(fields, "select")
    if wanted is None:
        return None
    names = set(records.columns(model)) | records.COMPUTED
    if not isinstance(wanted, list) or not wanted:
        raise Unprocessable('select must be a JSON array of attributes such as ["uuid", "state"]')
    for name in wanted:
        if not isinstance(name, str) or name not in names:
            raise Unprocessable(f"select names {name!r}, which is not an attribute of {model.__tablename__}")
    return frozenset(wanted)


def _listed(model: type[Record]) -> frozenset[str] | None:
    """Return the attributes that a list has unless ``select`` names others; None for all of them."""
    if not model.UNLISTED:
        return None
    return (records.COMPUTED | records.columns(model).keys()) - model.UNLISTED


def order(model: type[Record], wanted: Any) -> list[ColumnElement[Any]]:
    """Return the ORDER BY for ``["attribute desc", …]`` or ``attribute desc, …``; newest first by default."""
    if isinstance(wanted, str) and wanted.lstrip().startswith("["):
        wanted = loads(wanted, "order")
    terms = wanted.split(",") if isinstance(wanted, str) else wanted or []
    if not isinstance(terms, list) or len(terms) > MAX_ORDER:
        raise Unprocessable(
            f'order must be a JSON array of at most {MAX_ORDER} terms, such as ["priority desc", "created_at"]'
        )
    clauses = [_order_term(model, term) for term in terms if term != ""] or [model.modified_at.desc()]
    return [*clauses, model.uuid.desc()]  # so that pages never overlap


def _order_term(model: type[Record], term: Any) -> ColumnElement[Any]:
    words = term.split() if isinstance(term, str) else []
    name = words[0].removeprefix(f"{model.__tablename__}.") if words else ""
    column = records.columns(model).get(name)
    direction = words[1].lower() if len(words) > 1 else "asc"
    if column is None or isinstance(column.type, JSON) or len(words) > 2 or direction not in ("asc", "desc"):
        raise Unprocessable(f"order has {term!r}, which is not an attribute of {model.__tablename__} with asc or desc")
    return column.desc() if direction == "desc" else column.asc()


def filters(model: type[Record], wanted: Any) -> list[ColumnElement[bool]]:
    """Return the conditions for ``[[attribute, operator, operand], …]``."""
    if wanted is None:
        return []
    if not isinstance(wanted, list) or len(wanted) > MAX_FILTERS:
        raise Unprocessable(f"filters must be a JSON array of at most {MAX_FILTERS} [attribute, operator, operand]")
    _check_operands(wanted)
    conditions = [_filter(model, term) for term in wanted]
    if sum(term[1].lower() in _PATTERN_OPERATORS for term in wanted) > MAX_PATTERNS:
        raise Unprocessable(f"filters has more than {MAX_PATTERNS} terms with like or ilike; ask in several lists")
    return conditions


def _check_operands(wanted: list[Any]) -> None:
    """Refuse more values than one statement takes, before any are used."""
    count = sum(len(term[2]) for term in wanted if isinstance(term, list) and len(term) == 3 and
                isinstance(term[2], list))  # fmt: skip
    if count > MAX_OPERANDS:
        raise Unprocessable(f"filters has {count} values in its arrays, over {MAX_OPERANDS}; ask in several lists")


def _filter(model: type[Record], term: Any) -> ColumnElement[bool]:
    if not isinstance(term, list) or len(term) != 3 or not all(isinstance(part, str) for part in term[:2]):
        raise Unprocessable(f"a filter must be [attribute, operator, operand], not {str(term)[:60]}")
    name, operator, operand = term[0], term[1].lower(), term[2]
    column = records.columns(model).get(name)
    if column is None:
        raise Unprocessable(f"a filter names {name!r}, which is not an attribute of {model.__tablename__}")
    if operator == "exists":
        return _exists(column, operand)
    if isinstance(column.type, JSON):
        raise Unprocessable(f"{name} is JSON: it can be filtered with exists only, not with {term[1]!r}")
    if operator in ("=", "==", "!=", "<>"):
        return _equal(column, operand) if operator in ("=", "==") else _different(column, operand)
    if operator in ("in", "not in"):
        return _in(column, operand) if operator == "in" else _not_in(column, operand)
    if operator in (*_PATTERN_OPERATORS, "is_a"):
        return _like(column, operator, operand)
    if operator in _COMPARISONS:
        if operand is None:
            raise Unprocessable(f"{name} cannot be compared with null by {operator}; use = or !=")
        return _COMPARISONS[operator](column, _operand(column, operand))
    raise Unprocessable(
        f"a filter has the operator {term[1]!r}; known are =, !=, <, <=, >, >=, in, not in, like, ilike, is_a, exists"
    )


def _equal(column: Column[Any], operand: Any) -> ColumnElement[bool]:
    return column.is_(None) if operand is None else column == _operand(column, operand)


def _different(column: Column[Any], operand: Any) -> ColumnElement[bool]:
    if operand is None:
        return column.is_not(None)
    return or_(column != _operand(column, operand), column.is_(None))


def _in(column: Column[Any], operand: Any) -> ColumnElement[bool]:
    values = _operands(column, operand)
    found = column.in_([value for value in values if value is not None])
    return or_(found, column.is_(None)) if None in values else found


def _not_in(column: Column[Any], operand: Any) -> ColumnElement[bool]:
    values = _operands(column, operand)
    other = column.not_in([value for value in values if value is not None])
    return and_(other, column.is_not(None)) if None in values else or_(other, column.is_(None))


def _operands(column: Column[Any], operand: Any) -> list[Any]:
    if not isinstance(operand, list):
        raise Unprocessable(f"a filter with in needs a JSON array of values for {column.key}")
    return [value if value is None else _operand(column, value) for value in operand]


def _operand(column: Column[Any], value: Any) -> Any:
    """Return ``value`` as the column's type; Arvados' clients send numbers and booleans as text too."""
    if isinstance(value, str) and isinstance(column.type, Boolean | Integer | Float):
        value = loads(value, f"the operand for {column.key}")
    return records.typed_value(column, value)


def _like(column: Column[Any], operator: str, operand: Any) -> ColumnElement[bool]:
    if isinstance(column.type, Boolean | Integer | Float | UtcDateTime):
        raise Unprocessable(f"{column.key} is not text: it cannot be filtered with {operator}")
    if operator == "is_a":
        kinds = operand if isinstance(operand, list) else [operand]
        types = sorted({_UUID_TYPES[kind] for kind in kinds if isinstance(kind, str) and kind in _UUID_TYPES})
        return or_(column.in_([]), *(column.like(f"_____-{type_}-{'_' * 15}") for type_ in types))
    if not isinstance(operand, str):
        raise Unprocessable(f"a filter with {operator} needs a string for {column.key}")
    if len(operand) > MAX_PATTERN:
        raise Unprocessable(f"a pattern for {column.key} has {len(operand)} characters; {MAX_PATTERN} is the most")
    text = func.substr(column, 1, MATCHED_TEXT, type_=column.type)
    return text.ilike(operand) if operator == "ilike" else text.like(operand)


def _exists(column: Column[Any], operand: Any) -> ColumnElement[bool]:
    if not isinstance(column.type, JSON) or column.info["shape"] is not dict:
        raise Unprocessable(f"{column.key} is not a JSON object: it cannot be filtered with exists")
    if not isinstance(operand, str) or '"' in operand or "\\" in operand or len(operand) > MAX_PATTERN:
        raise Unprocessable(f"a filter with exists needs the name of a key of {column.key}")
    value: ColumnElement[str] = column[operand].as_string()
    return value.is_not(None)


def _json(fields: Mapping[str, Any], name: str) -> Any:
    value = fields.get(name)
    if isinstance(value, str):
        return loads(value, name) if value.strip() else None
    return value


def _natural(fields: Mapping[str, Any], name: str, default: int) -> int:
    value = fields.get(name)
    if value is None or value == "":
        return default
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        value = int(value)
    if type(value) is not int or not 0 <= value <= records.MAX_INTEGER:
        raise Unprocessable(f"{name} must be an integer from 0 to {records.MAX_INTEGER}")
    return value
