"""The tables that scripts/simulate prints, in the form in which docs/scaling.md has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Fact(NamedTuple):
    """One line: what was measured, and its value."""

    what: str
    value: str


def table(title: str, facts: Iterable[Fact]) -> str:
    """Return a table."""
    return "\n".join([f"| {title} | |", "|---|---|", *(f"| {fact.what} | {fact.value} |" for fact in facts), ""])
