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
    small_files: int
    sessions: int
    many_sessions: int
    long_size: int
    idle_seconds: float


FULL = Scale(500 << 20, 7, 500, 50, 1000, 1000, 5000, 10_000 << 20, 20.0)
QUICK = Scale(100 << 20, 5, 100, 20, 200, 200, 500, 500 << 20, 3.0)


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
