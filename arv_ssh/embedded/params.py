"""What a client of the embedded API sent: query, JSON or form body, the ``_method`` override.

Pure. Owns that anything unreadable is a 400 with a sentence; knows no resource.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from arv_ssh.errors import BadRequest

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
MAX_FIELDS = 1000
"""Form fields at most; a call has a handful."""
MAX_DEPTH = 100
"""Arrays and objects inside each other. Python's own limit depends on the depth of the calls at that moment: a record
that could just be stored could not be shown, and would make each list with it fail."""
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
RESERVED = frozenset({
    "_method", "api_token", "bypass_federation", "cluster_id", "count", "distinct", "ensure_unique_name", "filters",
    "forward_to", "include", "include_old_versions", "include_trash", "limit", "offset", "order", "reader_tokens",
    "select", "uuid_list", "where",
})  # fmt: skip
"""Parameters that are never read as attributes when both are in one object; Arvados' clients send some with every
call."""


def read(method: str, query: str, headers: Mapping[str, str], body: bytes) -> tuple[str, dict[str, Any], bool]:
    """Return the intended method, the parameters, and whether they came from a form (then every value is text)."""
    fields, is_form = _form(query, "the query"), True
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if body.strip():
        if content_type == "application/json" or (body.lstrip()[:1] == b"{" and "form" not in content_type):
            fields, is_form = fields | _json_object(body), False
        else:
            fields |= _form(_text(body), "the body")
    method = method.upper()
    if method == "POST":
        method = str(fields.get("_method") or headers.get("x-http-method-override") or method).upper()
    if method not in METHODS:
        raise BadRequest(f"{method} is not an HTTP method of this API; use GET, POST, PATCH or DELETE")
    return "GET" if method == "HEAD" else method, fields, is_form


def loads(text: str | bytes, what: str) -> Any:
    """Read JSON; raise :class:`BadRequest` saying that ``what`` is not JSON that can be stored."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        _check(value, what)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{what} is not valid JSON") from error
    return value


def attributes(fields: Mapping[str, Any], singular: str) -> dict[str, Any]:
    """Return the record's attributes: under its ``singular`` name, or beside the parameters."""
    wrapped = fields.get(singular)
    if wrapped is None:
        return {name: value for name, value in fields.items() if name not in RESERVED and name != singular}
    if isinstance(wrapped, str):
        wrapped = loads(wrapped, f"{singular}")
    if not isinstance(wrapped, dict):
        raise BadRequest(f"{singular} must be a JSON object of attributes")
    return wrapped


def flag(fields: Mapping[str, Any], name: str) -> bool:
    """Read a parameter that is true or false, in JSON or as text; without it, false."""
    value = fields.get(name) or False
    if isinstance(value, str):
        value = loads(value, name) if value != "1" else True
    if not isinstance(value, bool):
        raise BadRequest(f"{name} must be true or false")
    return value


def _json_object(body: bytes) -> dict[str, Any]:
    value = loads(_text(body), "the body")
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value


def _form(text: str, what: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError as error:
        raise BadRequest(f"{what} is not a URL-encoded form") from error
    _check(dict(pairs), what)
    return dict(pairs)


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise BadRequest("the body is not UTF-8") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _check(value: Any, what: str, depth: int = 0) -> None:
    """Refuse values that a database cannot hold: NUL, half of a surrogate pair, infinity or NaN; and deep nesting."""
    if depth > MAX_DEPTH:
        raise BadRequest(f"{what} has arrays or objects nested more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        if _UNSTORABLE.search(value):
            raise BadRequest(f"{what} has a character that cannot be stored (NUL, or half of a surrogate pair)")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise BadRequest(f"{what} has a number that is too large")
    elif isinstance(value, list):
        for item in value:
            _check(item, what, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check(key, what)
            _check(item, what, depth + 1)
