"""What a run says: a Markdown table for people, JSON for programs, and the machine it ran on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.hops import HOPS
from tests.bench.resources import Fact
from tests.bench.rows import Result

HEAD = "| row | what | against | ours | reference | ratio | must | aim | |\n|---|---|---|---|---|---|---|---|---|"


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table."""
    return "\n".join([HEAD, *map(_line, results)])


def progress(result: Result) -> str:
    """Return one line for a result."""
    ours, reference = result.values
    return f"{result.row.name}: {ours:.1f} and {reference:.1f} {result.row.unit}, {result.ratio:.2f}× {verdict(result)}"


def verdict(result: Result) -> str:
    """Return what the ratio comes to in a word."""
    return "aim" if result.reaches(result.row.aim) else "reached" if result.reaches(result.row.must) else "MISSED"


def _line(result: Result) -> str:
    row = result.row
    ours, reference = result.values
    bound = "≥" if row.is_rate else "≤"
    cells = [
        row.name, row.what, row.against, f"{ours:.4g} {row.unit}", f"{reference:.4g} {row.unit}",
        f"{result.ratio:.2f}×", f"{bound} {row.must:g}×", f"{bound} {row.aim:g}×", verdict(result),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def hops(costs: dict[str, dict[str, float]], names: Sequence[str]) -> str:
    """Return seconds of a core for each GB as a Markdown table, a line for a direction."""
    lines = [f"| {' | '.join(['CPU s/GB', *names, 'all'])} |", "|---" * (len(names) + 2) + "|"]
    for direction, cost in costs.items():
        cells = [f"{value:.2f}" for value in [*(cost[name] for name in names), sum(cost.values())]]
        lines.append(f"| {' | '.join([direction, *cells])} |")
    return "\n".join(lines)


def facts(found: Sequence[Fact]) -> str:
    """Return absolute figures as a Markdown table."""
    lines = ["| row | what | is | must | |", "|---|---|---|---|---|"]
    for fact in found:
        bound, word = ("", "") if fact.limit is None else (f"≤ {fact.limit:.4g}", "reached" if fact.holds else "MISSED")
        lines.append(f"| {fact.name} | {fact.what} | {fact.value:.3g} {fact.unit} | {bound} | {word} |")
    return "\n".join(lines)


@dataclass
class Report:
    """What one run has measured so far."""

    quick: bool
    results: list[Result] = field(default_factory=list)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)

    def tables(self) -> str:
        """Return everything as Markdown tables."""
        parts = [table(self.results)] if self.results else []
        parts += [hops(self.costs, HOPS)] if self.costs else []
        parts += [facts(self.facts)] if self.facts else []
        return "\n\n".join(parts)

    def as_json(self) -> str:
        """Return everything that was measured, with the machine."""
        rows = [
            {
                "name": result.row.name, "what": result.row.what, "against": result.row.against,
                "unit": result.row.unit, "ours": result.ours, "reference": result.reference, "ratio": result.ratio,
                "must": result.row.must, "aim": result.row.aim, "verdict": verdict(result),
            }
            for result in self.results
        ]  # fmt: skip
        found = {
            "time": int(time.time()), "quick": self.quick, "machine": machine(), "rows": rows,
            "cpu_seconds_per_gb": self.costs, "absolute": [asdict(fact) for fact in self.facts],
        }  # fmt: skip
        return json.dumps(found, indent=1) + "\n"


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    said = subprocess.run(["ssh", "-V"], capture_output=True, text=True, timeout=10).stderr
    return {
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.machine(), "cores": os.cpu_count(),
        "kernel": platform.release(), "python": platform.python_version(), "ssh": said.strip(),
        "load": os.getloadavg()[0],
    }  # fmt: skip
