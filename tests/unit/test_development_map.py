"""The newcomer's map in docs/development.md: each path in it exists, and what is looked for most has a row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = "| to change | look in |"
PATH = re.compile(r"`([a-z_]+/[\w./-]*)`")


def rows() -> dict[str, str]:
    """Return the table: where to look, by what is to change."""
    _, _, table = (ROOT / "docs" / "development.md").read_text().partition(HEAD)
    lines = table.partition("\n\n")[0].splitlines()[2:]
    cells = (line.strip("| ").split(" | ") for line in lines)
    return {what: where for what, where in cells}


@pytest.mark.parametrize("what", rows())
def test_each_path_exists(what: str) -> None:
    """Each row names files of the tree by their whole paths, and a directory by its name and a slash."""
    named = re.findall(r"`([^`]*)`", rows()[what])
    paths = [name for name in named if PATH.fullmatch(f"`{name}`")]
    assert paths and all(name in paths or name.startswith("-") for name in named), named
    for path in paths:
        found = ROOT / path
        assert found.is_dir() if path.endswith("/") else found.is_file(), f"{path} is not there"


@pytest.mark.parametrize(
    "topic",
    ["window-change", "exit-status", "interactive_session_started", "403 or 503", "HMAC", "a file is opened",
     "symbolic links", "token is checked", "dialled by another controller", "audit records are written", "docker exec",
     "bundle", "host key is made", "known_hosts is written", "SIGTERM", "metrics"],
)  # fmt: skip
def test_what_is_looked_for(topic: str) -> None:
    """Each question that newcomers ask has exactly one row or more of the table."""
    assert [what for what in rows() if topic in what]
