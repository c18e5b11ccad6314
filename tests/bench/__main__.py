"""The command line of ``scripts/bench``: which rows, how long, and where the result goes."""

from __future__ import annotations

import argparse
import fnmatch
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.bench import hops, latencies, report, resources, transfers
from tests.bench.places import Places
from tests.bench.rows import FULL, QUICK, Scale
from tests.bench.target import Failed

COMPARISONS = [*transfers.ROWS, *latencies.ROWS]


def main() -> int:
    """Run the rows asked for; print the table and write the JSON file."""
    options = _parser().parse_args()
    names = [*(row.name for row in COMPARISONS), hops.NAME, *resources.FACTS]
    if options.list:
        print("\n".join(names))
        return 0
    unknown = [word for word in options.rows if not fnmatch.filter(names, word)]
    if unknown:
        print(f"bench: there is no row {', '.join(unknown)}; scripts/bench --list names them", file=sys.stderr)
        return 2
    wanted = [name for name in names if not options.rows or any(fnmatch.fnmatch(name, word) for word in options.rows)]
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        return _run(wanted, options)
    except Failed as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; what was started is ended", file=sys.stderr)
        return 130


def _run(wanted: list[str], options: argparse.Namespace) -> int:
    scale = QUICK if options.quick else FULL
    found = report.Report(quick=options.quick)
    try:
        with tempfile.TemporaryDirectory(prefix="arv-ssh-bench-") as directory, ExitStack() as stack:
            try:
                _measure(wanted, Places(Path(directory), stack), scale, found)
            finally:  # a second Ctrl-C must not stop the ending of what was started
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_IGN)
    finally:  # also what was measured before Ctrl-C
        print(found.tables())
        options.json.write_text(found.as_json())
    return 0


def _measure(wanted: list[str], places: Places, scale: Scale, found: report.Report) -> None:
    for row in COMPARISONS:
        if row.name in wanted:
            found.results.append(row.run(places, scale))
            print(report.progress(found.results[-1]), file=sys.stderr, flush=True)
    if hops.NAME in wanted:
        found.costs = hops.measure(places, scale)
    for name, measure in resources.FACTS.items():
        if name in wanted:
            found.facts += measure(places, scale)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="names of rows, * and ? allowed; without any: all")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--quick", action="store_true", help="less of everything: under 3 minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", default=Path("bench.json"), help="default: bench.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
