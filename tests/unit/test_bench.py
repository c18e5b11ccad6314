"""The benchmark's own parts: what moves side by side does so, and counts in full."""

from __future__ import annotations

import threading

import pytest

from tests.bench import transfers
from tests.bench.__main__ import COMPARISONS
from tests.bench.rows import FULL, QUICK, Scale
from tests.bench.target import Failed
from tests.timing import DEADLINE


def test_names() -> None:
    """Each row has its own name, by which it is asked for."""
    names = [row.name for row in COMPARISONS]
    assert len(set(names)) == len(names)
    assert {"transfers-parallel-out", "transfers-parallel-in", "directory", "directory-long"} <= set(names)


@pytest.mark.parametrize("scale", [FULL, QUICK])
def test_share(scale: Scale) -> None:
    """A share of transfers side by side is what can be made: whole blocks for output, whole megabytes for a file."""
    share = transfers._share(scale)
    assert share > 0 and share % transfers.BLOCK == 0 and share % (1 << 20) == 0


def test_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transfers begin together, all their bytes count, and the failure of one is the measurement's."""
    together = threading.Barrier(transfers.SIDE_BY_SIDE)
    monkeypatch.setattr(transfers, "rate", lambda size, work: work() or size)

    def move() -> None:
        together.wait(DEADLINE)

    assert transfers._at_once(1000, [move] * transfers.SIDE_BY_SIDE)() == 4000

    def fail() -> None:
        raise Failed("no transfer")

    with pytest.raises(Failed, match="no transfer"):
        transfers._at_once(1000, [fail, lambda: None])()
