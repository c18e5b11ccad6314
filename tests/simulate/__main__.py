"""The command line of scripts/simulate."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.simulate import dispatcher, sessions
from tests.simulate.report import Fact, table


def main() -> None:
    """Measure the parts that are asked for, all by default, and print a table of each."""
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=main.__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="less of everything")
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"no part {unknown[0]}; there are {', '.join(PARTS)}")
    load = os.getloadavg()[0]
    print(f"{time.strftime('%F')}, {os.cpu_count()} processors, load {load:.1f} before it began\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="arv-ssh-simulate-") as name:
        for part in options.parts or PARTS:
            directory = Path(name, part)
            directory.mkdir()
            print(table(part, PARTS[part](directory, options.quick)), flush=True)


def _dispatcher(directory: Path, quick: bool) -> list[Fact]:
    return dispatcher.measure(directory, *((200, 50) if quick else (2000, 500)))


def _sessions(directory: Path, quick: bool) -> list[Fact]:
    seconds = 3.0 if quick else 20.0
    return [fact for workers in (1, 2, 4) for fact in sessions.saturation(directory / str(workers), workers, seconds)]


def _idle(directory: Path, quick: bool) -> list[Fact]:
    seconds = 10.0 if quick else 60.0
    one = sessions.idle(directory / "one", 1, [200] if quick else [1000, 2500, 5000], seconds)
    return one + sessions.idle(directory / "several", 4, [400] if quick else [10000], seconds)


def _queries(directory: Path, quick: bool) -> list[Fact]:
    return sessions.queries(directory / "site", 20 if quick else 200, 15.0 if quick else 60.0)


PARTS: dict[str, Callable[[Path, bool], list[Fact]]] = {
    "dispatcher": _dispatcher, "sessions": _sessions, "idle": _idle, "queries": _queries,
}  # fmt: skip

if __name__ == "__main__":
    main()
