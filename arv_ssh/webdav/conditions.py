"""What a GET may ask besides a file: only if it has changed (RFC 9110 §13), and only a part of it (§14).

Pure. Owns a file's ETag. Knows no files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

_SECOND = 1_000_000_000
_FIRST, _LAST = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (1, 9999))
"""The times that HTTP can write (four digits for a year), in seconds; a file may have any other."""
_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Facts:
    """A file's size in bytes, and when it was changed, in nanoseconds since the epoch."""

    size: int
    modified: int

    @property
    def etag(self) -> str:
        """Return the file's strong ETag: a growing file has another with each byte."""
        return f'"{self.modified:x}-{self.size:x}"'

    @property
    def last_modified(self) -> str:
        """Return the date of the last change, as HTTP writes it."""
        seconds = min(max(self.modified // _SECOND, _FIRST), _LAST)
        return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


@dataclass(frozen=True)
class Part:
    """What to send: the status (200, 206, 304, 412 or 416), and the bytes from ``start``, ``length`` of them."""

    status: int
    start: int = 0
    length: int = 0


def part(headers: Mapping[str, str], facts: Facts) -> Part:
    """Return what a GET with ``headers`` (lower-case names) gets of a file: RFC 9110 §13.2.2's order.

    Several ranges at once are answered with the whole file, as §14.2 allows. An empty file has no range, and is sent
    as it is: clients that always ask for a range could not tell it from an error.
    """
    if status := _precondition(headers, facts):
        return Part(status)
    whole = Part(200, 0, facts.size)
    asked = _RANGE.fullmatch(headers.get("range", ""))
    if asked is None or asked.groups() == ("", "") or not _range_holds(headers, facts):
        return whole
    first, last = asked.groups()
    if not first and not int(last):
        return Part(206, facts.size, 0)  # as Go's servers have it: stock clients ask so for the size
    if not facts.size:
        return whole
    if not first:
        start, end = max(0, facts.size - int(last)), facts.size
    else:
        start, end = int(first), min(int(last) + 1, facts.size) if last else facts.size
        if last and int(last) < int(first):
            return whole  # not a valid range (§14.1.1)
    return Part(206, start, end - start) if start < end else Part(416)


def _precondition(headers: Mapping[str, str], facts: Facts) -> int:
    """Return the status of a condition that does not hold, 0 when all hold."""
    if "if-match" in headers:
        if not _lists(headers["if-match"], facts.etag):
            return 412
    elif (since := _date(headers.get("if-unmodified-since", ""))) is not None and facts.modified // _SECOND > since:
        return 412
    if "if-none-match" in headers:
        return 304 if _lists(headers["if-none-match"], facts.etag) else 0
    since = _date(headers.get("if-modified-since", ""))
    return 304 if since is not None and facts.modified // _SECOND <= since else 0


def _range_holds(headers: Mapping[str, str], facts: Facts) -> bool:
    """Say whether If-Range lets the range count. A date must be exact (§13.1.5)."""
    given = headers.get("if-range")
    return given is None or given.strip() in (facts.etag, facts.last_modified)


def _lists(tags: str, etag: str) -> bool:
    return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in tags.split(","))


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
