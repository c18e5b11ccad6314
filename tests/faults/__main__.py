"""The command line of ``scripts/faults``: which cells, how many at once, and where the results go."""

from __future__ import annotations

import argparse
import fnmatch
import json
import queue
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any

from tests.faults import document, leads, matrix
from tests.faults.matrix import Cell
from tests.faults.play import Outcome, play
from tests.faults.stage import Stage

RESULTS = Path(__file__).with_name("results.json")
DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"


def main() -> int:
    """Play the cells asked for; write the results and the document."""
    options = _parser().parse_args()
    wanted = [cell for cell in matrix.cells()
              if not options.cells or any(fnmatch.fnmatch(cell.name, word) for word in options.cells)]  # fmt: skip
    if options.list:
        print("\n".join(cell.name for cell in wanted))
        return 0
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    results = Results(options.results)
    if not options.document_only:
        root = Path(tempfile.mkdtemp(prefix="arv-ssh-faults-"))
        Run(wanted, options.jobs, root, results).play()
        if not options.cells or "leads" in options.cells:
            with Stage(root / "leads") as stage:
                for outcome in leads.play(stage):
                    results.keep(outcome)
        shutil.rmtree(root, ignore_errors=True)
    if options.results == RESULTS:
        DOCUMENT.write_text(document.render(results.found))
    different = [name for name, result in results.found.items() if result["differs"]]
    print(f"{len(results.found)} cells, {len(different)} of them different from what should be")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/faults", description="One fault at a time, in every phase.")
    what = "patterns, such as 'controller killed/*', or leads; none: all"
    parser.add_argument("cells", nargs="*", metavar="CELL", help=what)
    parser.add_argument("--list", action="store_true", help="name the cells")
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="cells at once (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="where the results are kept")
    parser.add_argument("--document-only", action="store_true", help="write the document from the last results")
    return parser


class Results:
    """The results in ``file``, which has each as soon as it is there; threads may share it."""

    def __init__(self, file: Path) -> None:
        self.found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        self._file = file
        self._lock = threading.Lock()

    def keep(self, outcome: Outcome) -> None:
        """Write a result down, and say it."""
        with self._lock:
            self.found[outcome.cell] = outcome.to_json()
            text = json.dumps(self.found, indent=1, sort_keys=True, ensure_ascii=False)
            self._file.write_text(f"{text}\n")
            print(f"{outcome.cell}: {outcome.status} after {outcome.seconds} s {outcome.differs or ''}", flush=True)


class Run:
    """Cells played by some threads, each with a stage that it keeps while nothing is broken."""

    def __init__(self, cells: list[Cell], jobs: int, root: Path, results: Results) -> None:
        self._root = root
        self._results = results
        self._jobs = jobs
        self._queues: queue.Queue[list[Cell]] = queue.Queue()
        for group in _groups(cells):
            self._queues.put(group)

    def play(self) -> None:
        """Play all, and return when all are over."""
        threads = [threading.Thread(target=self._work) for _ in range(self._jobs)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            while not self._queues.empty():  # interrupted: the cells that are played now are the last ones
                self._queues.get()

    def _work(self) -> None:
        while True:
            try:
                group = self._queues.get_nowait()
            except queue.Empty:
                return
            while group:
                try:
                    self._play_group(group)
                except Exception:
                    traceback.print_exc()

    def _play_group(self, group: list[Cell]) -> None:
        place = Path(tempfile.mkdtemp(dir=self._root))
        with Stage(place / "c", group[0].kind, group[0].audit) as stage:
            while group:
                cell = group.pop(0)
                outcome = play(cell, stage)
                self._results.keep(outcome)
                if any("could not be played" in text for text in outcome.differs):
                    return  # on a stage that may be broken nothing more is played


def _groups(cells: list[Cell]) -> list[list[Cell]]:
    """Return cells that share a stage, the slow ones first."""
    groups: dict[tuple[str, str, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.kind, cell.audit, cell.victim, cell.fault), []).append(cell)
    return sorted(groups.values(), key=lambda group: -sum(cell.expect.within for cell in group))


if __name__ == "__main__":
    sys.exit(main())
