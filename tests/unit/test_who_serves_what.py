"""docs/administration/who-serves-what.md: each combination has its row, and each cell a test, or a reason for none."""

from __future__ import annotations

import ast
import re
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "administration" / "who-serves-what.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)((?:::\w+)+)`")
CELL = re.compile(r"(?:ours|stock's|relayed|none|unknown|vouched for) \((\d+(?:, \d+)*)\)")
COMBINATIONS = set(product(("stock", "ours"), ("stock", "ours"), ("stock", "beside", "ours")))


def rows() -> list[list[str]]:
    """Return the cells of the table's rows."""
    lines = [line for line in TEXT.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines[1:]]


def notes() -> dict[str, str]:
    """Return the numbered notes below the table."""
    found = re.findall(r"^(\d+)\. (.*(?:\n {3,}.*)*)", TEXT, flags=re.M)
    return {number: " ".join(text.split()) for number, text in found}


def test_each_combination_has_its_row() -> None:
    """Client, controller and crunch-run are each stock's or ours, or ours beside; no combination is missing."""
    assert {tuple(row[:3]) for row in rows()} == COMBINATIONS and len(rows()) == len(COMBINATIONS)


def test_each_cell_says_why() -> None:
    """A cell says whose answer it is and where that is tested; no note is left that no cell needs."""
    cells = [cell for row in rows() for cell in row[3:]]
    assert len(cells) == 6 * len(COMBINATIONS) and [cell for cell in cells if not CELL.fullmatch(cell)] == []
    named = {number for cell in cells for number in re.findall(r"\d+", cell)}
    assert named == notes().keys()


@pytest.mark.parametrize("number", notes())
def test_each_note(number: str) -> None:
    """A note names tests, each a class or function of a file that exists, or says why there is none."""
    note = notes()[number]
    found = NAMED.findall(note)
    assert bool(found) != note.startswith("No test: "), note
    for path, names in found:
        scope: ast.AST = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        for name in names.split("::")[1:]:
            children = ast.iter_child_nodes(scope)
            inner = {one.name: one for one in children if isinstance(one, ast.ClassDef | ast.FunctionDef)}
            assert name in inner, f"{path} has no {name}"
            scope = inner[name]
