"""The order of jobs that wait: which of them get another nice value. Pure.

Slurm starts the job with the highest priority first. It gives each job a base that we cannot set and takes the nice
value off it. Each change is a call of scontrol, so as few jobs as possible are moved: the longest part that is in order
stays, the others are put between.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

INITIAL = 10_000
"""The nice value of the first waiting job: room to put others before it, since nobody but root may go below 0."""
MAX_NICE = 2_147_483_645
"""Slurm's own limit (NICE_OFFSET)."""

Pair = tuple[int, int]


def changes(jobs: Sequence[Pair], spread: int) -> dict[int, int]:
    """Return the nice values to set, by index in ``jobs``: pairs of base and present nice value, most urgent first."""
    present = [base - nice for base, nice in jobs]
    kept = _longest_decreasing(present)
    if len(kept) == len(jobs):
        return {}
    moved = _between(jobs, present, kept, spread)
    if moved is None:  # there is no room
        afresh = _afresh([base for base, _ in jobs], spread)
        return {index: nice for index, nice in enumerate(afresh) if nice != jobs[index][1]}
    return moved


def _between(jobs: Sequence[Pair], present: Sequence[int], kept: Sequence[int], spread: int) -> dict[int, int] | None:
    """Return the values for the jobs that are not kept, or None when they do not fit between those that are."""
    found: dict[int, int] = {}
    for above, below in pairwise([-1, *kept, len(jobs)]):
        movers = range(above + 1, below)
        top = present[above] if above >= 0 else None
        bottom = present[below] if below < len(jobs) else None
        for place, priority in zip(movers, _places(top, bottom, len(movers), spread), strict=True):
            nice = jobs[place][0] - priority
            if not 0 <= nice <= MAX_NICE or priority < 1 or (bottom is not None and priority <= bottom):
                return None
            found[place] = nice
    return found


def _places(top: int | None, bottom: int | None, number: int, spread: int) -> list[int]:
    """Return priorities below ``top`` and above ``bottom``, the highest first."""
    if top is None:
        return [(bottom or 0) + spread * step for step in range(number, 0, -1)]
    step = spread if bottom is None else max((top - bottom) // (number + 1), 1)
    return [top - step * place for place in range(1, number + 1)]


def _afresh(bases: Sequence[int], spread: int) -> list[int]:
    """Return nice values for all jobs, ``spread`` or more apart, with room before the first."""
    values: list[int] = []
    ceiling = max((base for base in bases), default=0) - INITIAL
    for base in bases:
        priority = max(min(base, ceiling), 1)  # 0 would hold the job
        values.append(min(base - priority, MAX_NICE))
        ceiling = priority - spread
    return values


def _longest_decreasing(values: Sequence[int]) -> list[int]:
    """Return the indices of a longest strictly decreasing part of ``values``, in order."""
    tails: list[int] = []  # negated last values of the best parts of each length, and their indices
    ends: list[int] = []
    before: list[int] = []
    for index, value in enumerate(values):
        length = bisect_left(tails, -value)
        before.append(ends[length - 1] if length else -1)
        tails[length : length + 1] = [-value]
        ends[length : length + 1] = [index]
    found: list[int] = []
    index = ends[-1] if ends else -1
    while index >= 0:
        found.append(index)
        index = before[index]
    return found[::-1]
