"""Do mixed work in a cluster of its own for a long time; then look whether everything is as before.

Ends with 1 when a byte was wrong, a piece of work failed, or something is left over.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.integration.embedded_cluster import EmbeddedCluster
from tests.soak import state
from tests.soak.state import State
from tests.soak.work import KINDS, Place, connect
from tests.timing import POLL

WORKERS = 3
IN_A_ROW = 10_000 / 60
"""Connects in a row for each minute asked for: 10,000 in the hour of a full run."""
SETTLE = 30.0
"""Seconds in which what ended last may be reaped: hanging a session up takes three steps of 2 s."""
SHOWN_FAILURES = 10


@dataclass
class Result:
    """What was done, and what was there before and after."""

    minutes: float
    done: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    before: dict[str, State] = field(default_factory=dict)
    after: dict[str, State] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Say whether all is well."""
        return not self.failures and not self.left


def soak(minutes: float, directory: Path, seed: int = 0, connects: int | None = None) -> Result:
    """Run the whole of it: mixed work, then connects in a row."""
    cluster = EmbeddedCluster(directory / "cluster")
    try:
        cluster.up()
        uuid = cluster.run("sleep", "1000000", image="arv-ssh/debian:test")
        places = [_place(cluster, uuid, directory, seed + number) for number in range(WORKERS)]
        for work in KINDS.values():  # what is loaded once is loaded before the first look
            work(places[0])
        result = Result(minutes, before=_settled(cluster, uuid, None))
        end = time.monotonic() + minutes * 60
        threads = [threading.Thread(target=_mixed, args=(place, end, result)) for place in places]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for _ in range(round(minutes * IN_A_ROW) if connects is None else connects):
            _one("connects in a row", connect, places[0], result)
        result.after = _settled(cluster, uuid, result.before)
        result.left = state.leftovers(result.before, result.after)
        return result
    finally:
        cluster.down()


def _place(cluster: EmbeddedCluster, uuid: str, directory: Path, seed: int) -> Place:
    own = directory / f"worker-{seed}"
    own.mkdir()
    return Place(cluster.directory.ssh_config, uuid, own, random.Random(seed))


def _mixed(place: Place, end: float, result: Result) -> None:
    while time.monotonic() < end:
        name = place.chance.choice(list(KINDS))
        _one(name, KINDS[name], place, result)


def _one(name: str, work: object, place: Place, result: Result) -> None:
    try:
        work(place)  # type: ignore[operator]
    except Exception as error:
        result.failures.append(f"{name}: {type(error).__name__}: {str(error)[:500]}")
    result.done[name] = result.done.get(name, 0) + 1


def _settled(cluster: EmbeddedCluster, uuid: str, before: dict[str, State] | None) -> dict[str, State]:
    """Look until nothing is left over; without a ``before``, until it stays the same."""
    end = time.monotonic() + SETTLE
    last = state.look(cluster, uuid)
    while time.monotonic() < end:
        time.sleep(POLL if before else 2)
        found = state.look(cluster, uuid)
        if not state.leftovers(before or last, found) and (before or not state.leftovers(found, last)):
            return found
        last = found
    return last


def table(result: Result) -> str:
    """Return the result for people."""
    lines = [f"{name:18} {count:6}" for name, count in sorted(result.done.items())]
    lines += ["", f"{'':12} {'memory MB':>16} {'descriptors':>14} {'threads':>12} {'processes':>12}"]
    for name, then in result.before.items():
        now = result.after[name]
        words = [
            f"{then.memory / 2**20:.1f} → {now.memory / 2**20:.1f}", f"{then.descriptors} → {now.descriptors}",
            f"{then.threads} → {now.threads}", f"{then.children} → {now.children}",
        ]  # fmt: skip
        lines.append(f"{name:12} {words[0]:>16} {words[1]:>14} {words[2]:>12} {words[3]:>12}")
    lines += ["", f"{len(result.failures)} of {sum(result.done.values())} pieces of work failed"]
    return "\n".join([*lines, *result.failures[:SHOWN_FAILURES], *(f"left over: {one}" for one in result.left)])


def main() -> int:
    """Run the command line."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, the ssh that is hung up here would ignore it and go on
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, metavar="N", help="of mixed work; default: 60")
    parser.add_argument("--connects", type=int, metavar="N", help="in a row, after it; default: 10,000 in an hour")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for another order of the work")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="arv-ssh-soak-") as directory:
        result = soak(options.minutes, Path(directory), options.seed, options.connects)
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(asdict(result), indent=2) + "\n")
    return 0 if result.holds else 1


if __name__ == "__main__":
    sys.exit(main())
