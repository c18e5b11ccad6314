"""A minute of scripts/soak."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.soak.__main__ import soak, table
from tests.soak.state import MEMORY, State, leftovers
from tests.timing import DEADLINE


@pytest.mark.timeout(10 * DEADLINE)
def test_nothing_is_wrong_and_nothing_is_left_after_a_minute_of_mixed_work(tmp_path: Path) -> None:
    result = soak(0.7, tmp_path, connects=20)
    assert result.holds, table(result)
    assert sum(result.done.values()) > 20


@pytest.mark.parametrize("change", [{"memory": 2 * MEMORY}, {"descriptors": 99}, {"threads": 99}, {"children": 2}])
def test_what_is_left_over_is_named(change: dict[str, int]) -> None:
    before = State(memory=1, descriptors=8, threads=2, children=1)
    after = replace(before, **change)
    assert len(leftovers({"gateway": before}, {"gateway": after})) == 1
    assert not leftovers({"gateway": before}, {"gateway": before})
