"""The shape of a comparison: what is measured, against what, what it must reach; and the measuring, A B A B.

Owns the medians and their ratio. Knows nothing of what is measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from tests.bench.places import Places

Sample = Callable[[], float]
"""Measures once."""


@dataclass(frozen=True)
class Scale:
    """How much is done: the sizes and the numbers of repetitions of one run."""

    size: int
    repeats: int
    keys: int
    logins: int
    parallel: int
    commands: int
    small_files: int
    names: int
    sessions: int
    many_sessions: int
    long_size: int
    idle_seconds: float


FULL = Scale(
    size=500 << 20, repeats=7, keys=500, logins=15, parallel=50, commands=200, small_files=1000, names=100_000,
    sessions=1000, many_sessions=5000, long_size=10_000 << 20, idle_seconds=20.0,
)  # fmt: skip
QUICK = Scale(
    size=50 << 20, repeats=5, keys=100, logins=5, parallel=10, commands=40, small_files=100, names=10_000,
    sessions=100, many_sessions=300, long_size=300 << 20, idle_seconds=3.0,
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """One row: ``prepare`` gives how ours and the reference are measured once, in ``unit``.

    ``must`` and ``aim`` are ratios ours / reference: at least that for a rate, at most that for a time. ``summary``
    makes one number of a side's samples.
    """

    name: str
    what: str
    against: str
    unit: str
    must: float
    aim: float
    prepare: Callable[[Places, Scale, ExitStack], tuple[Sample, Sample]]
    summary: Callable[[Sequence[float]], float] = statistics.median
    repeats: Callable[[Scale], int] = field(default=lambda scale: scale.repeats)

    @property
    def is_rate(self) -> bool:
        """Say whether more is better."""
        return self.unit.endswith("/s")

    def run(self, places: Places, scale: Scale) -> Result:
        """Measure both sides in turns."""
        with ExitStack() as stack:
            ours, reference = self.prepare(places, scale, stack)
            samples: tuple[list[float], list[float]] = [], []
            for side in (ours, reference):
                side()  # the first time pays for what is cached later
            for _ in range(self.repeats(scale)):
                samples[0].append(ours())
                samples[1].append(reference())
        return Result(self, *samples)


@dataclass(frozen=True)
class Result:
    """The samples of a comparison's two sides."""

    row: Comparison
    ours: list[float]
    reference: list[float]

    @property
    def values(self) -> tuple[float, float]:
        """Return what each side comes to."""
        return self.row.summary(self.ours), self.row.summary(self.reference)

    @property
    def ratio(self) -> float:
        """Return ours / reference."""
        ours, reference = self.values
        return ours / reference

    def reaches(self, bound: float) -> bool:
        """Say whether the ratio is as good as ``bound``."""
        return self.ratio >= bound if self.row.is_rate else self.ratio <= bound


def percentile(part: float) -> Callable[[Sequence[float]], float]:
    """Return the summary below which ``part`` of the samples are."""
    return lambda samples: sorted(samples)[min(len(samples) - 1, int(len(samples) * part))]
