"""A few cells of the matrix, one of each kind; ``scripts/faults`` plays them all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.faults import document, matrix
from tests.faults.__main__ import DOCUMENT, RESULTS
from tests.faults.play import play
from tests.faults.stage import Stage
from tests.timing import SCALE

CELLS = {cell.name: cell for cell in matrix.cells()}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One stage for all: each cell puts right what it broke."""
    if os.geteuid() != 0:
        pytest.skip("small disks and other users' processes need root")
    with Stage(tmp_path_factory.mktemp("faults") / "c") as one:
        yield one


@pytest.mark.timeout(240 * SCALE)
@pytest.mark.parametrize("name", matrix.SUBSET)
def test_cell(stage: Stage, name: str) -> None:
    """ssh ends as it should and says why, nothing is left behind, the record is right, the next session works."""
    outcome = play(CELLS[name], stage)
    assert not outcome.differs, outcome


def test_the_document() -> None:
    """docs/reliability.md is what the results say."""
    assert DOCUMENT.read_text() == document.render(json.loads(RESULTS.read_text()))


def test_each_reason_explains_something() -> None:
    """No sentence says why a cell differs that does not; where results lack cells, nobody can know."""
    results = json.loads(RESULTS.read_text())
    assert CELLS.keys() <= results.keys()
    assert not document.unused_reasons(results)


def test_names_are_unique() -> None:
    """Each cell has a name of its own, and what is played here exists."""
    assert len(CELLS) == len(matrix.cells()) and set(matrix.SUBSET) <= CELLS.keys()
