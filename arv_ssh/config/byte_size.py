"""Sizes in bytes as written in Arvados' ``config.yml``: 536870912, 512MiB, 512M, "1.5 GiB". Pure."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?|B)?", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse(value: object) -> int:
    """Return ``value`` in bytes; raise ValueError unless it is a size."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("not a size")
    found = _SIZE.fullmatch(str(value).strip())
    if found is None:
        raise ValueError("not a size")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[(unit or "").upper()])
