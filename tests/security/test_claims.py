"""docs/security.md: each test that a claim names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)((?:::\w+)*)`")


def rows() -> list[str]:
    """Return the rows of claims: of the tables whose last column is the test."""
    found: list[str] = []
    claims = False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("| "):
            claims = False if not line.startswith("|-") else claims
        elif line.endswith("| test |"):
            claims = True
        elif claims:
            found.append(line)
    return found


@pytest.mark.parametrize(("path", "names"), sorted(set(NAMED.findall(PAGE.read_text(encoding="utf-8")))))
def test_each_test_exists(path: str, names: str) -> None:
    """A file, or a class or function of it."""
    scope: ast.AST = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for name in names.split("::")[1:]:
        children = ast.iter_child_nodes(scope)
        inner = {one.name: one for one in children if isinstance(one, ast.ClassDef | ast.FunctionDef)}
        assert name in inner, f"{path} has no {name}"
        scope = inner[name]


def test_each_claim_names_a_test() -> None:
    """No claim stands there for its own sake."""
    assert len(rows()) > 50
    assert [row for row in rows() if not NAMED.search(row.rsplit(" | ", 1)[1])] == []


def test_each_file_of_these_tests_is_named() -> None:
    """Whoever adds a test here says in the page what it holds."""
    named = {path for path, _ in NAMED.findall(PAGE.read_text(encoding="utf-8"))}
    own = {str(path.relative_to(ROOT)) for path in Path(__file__).parent.glob("test_*.py")}
    assert own <= named
