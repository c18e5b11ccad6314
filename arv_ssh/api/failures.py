"""The meaning of a failed call to the API: the error, and the sentence for the caller.

Owns the reading of Arvados' error texts, in which each server that passed an answer on prefixes its own words to those
of the server behind it. Pure; knows neither tokens nor connections.
"""

from __future__ import annotations

import re
from typing import Any

from arv_ssh.errors import BadGateway, HttpError, NotFound, Unauthorized, from_status

_PASSED_ON = re.compile(r"(?:request failed: )?(?:https?:)?//\S+: [1-5][0-9]{2} [A-Za-z][A-Za-z' -]*: ")
"""The prefix that Arvados' controller puts before the words of the server behind it: URL, status, reason."""
_LONGEST = 500
"""Characters of an API's text that are passed on; some of Arvados' errors quote a whole request."""


def error(host: str, path: str, status: int, answer: Any) -> HttpError:
    """Return the failure that ``answer``, the JSON of an error, means for the call of ``path``.

    The API's own text is kept as far as it is meant for people. Where it does not name its subject, that is put first.
    """
    text = _text(answer)
    if not text:
        return from_status(status, f"the API host {host} answered with status {status} and no reason")
    if status >= 500 and status not in (503, 504):
        return BadGateway(f"the API host {host} failed ({status}): {text}")
    failure = from_status(status, text)
    if isinstance(failure, Unauthorized) and "token" not in text.lower():
        return Unauthorized(f"the API host {host} does not accept the API token: {text}")
    named = _named(path)
    if isinstance(failure, NotFound) and named and named.rpartition(" ")[2] not in text:
        return NotFound(f"{named} was not found, or may not be read with this token: {text}")
    return failure


def _text(answer: Any) -> str:
    errors = answer.get("errors") if isinstance(answer, dict) else None
    if not isinstance(errors, list):
        return ""
    text = "; ".join(" ".join(_PASSED_ON.sub("", str(error)).split()) for error in errors)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _named(path: str) -> str:
    """Return the record that a path names, "container zzzzz-dz642-…", or "" when it does not name a single record."""
    resource, _, uuid = path.partition("/")
    if not uuid or uuid.startswith("current"):
        return ""
    return f"{resource.removesuffix('s').replace('_', ' ')} {uuid.partition('/')[0]}"
