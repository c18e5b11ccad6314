"""The lines of /etc/passwd and /etc/group, as glibc's ``nss_files`` reads them. Pure.

The container can write anything there. A line counts if the C library accepts it, and is skipped if that skips it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SPACE = " \t\n\v\f\r"
"""isspace(3)."""
DIGITS = "0123456789"
LONGEST = 20
"""Digits in the highest 64-bit number."""
ULONG_MAX = 0xFFFFFFFFFFFFFFFF
NO_ID = 0xFFFFFFFF
"""(uid_t) -1, which means no user (credentials(7)); glibc turns every number that is too large into it."""


def entries(text: str, fields: int) -> Iterator[list[str]]:
    """Yield each line's fields, always ``fields`` of them; the last one is the rest of the line, whatever is in it.

    Comments and NIS lines ("+" and "-", nsswitch.conf(5)) are skipped. To the C library a line ends at a NUL.
    """
    for line in text.split("\n"):
        line = line.partition("\0")[0].lstrip(SPACE)
        if line and line[0] not in "#+-":
            found = line.split(":", fields - 1)
            yield found + [""] * (fields - len(found))


def number(field: str) -> int | None:
    """Return the id that strtoul(3) makes of a whole field; None if the field is not an id."""
    digits = field.lstrip(SPACE)
    negative = digits.startswith("-")
    digits = digits[digits[:1] in ("+", "-") :]
    if not digits or digits.strip(DIGITS):
        return None
    digits = digits.lstrip("0") or "0"
    value = int(digits) if len(digits) <= LONGEST else ULONG_MAX + 1
    if value > ULONG_MAX:
        return None  # ULONG_MAX, with either sign
    value = (ULONG_MAX + 1 - value) & ULONG_MAX if negative else value
    return value if value < NO_ID else None


def members(field: str) -> tuple[str, ...]:
    """Return the members of a group, from the last field of its line."""
    return tuple(name for name in (one.lstrip(SPACE) for one in field.split(",")) if name)
