"""Run fuzz targets, each for a while: guided by coverage with atheris, else with hypothesis.

An input that fails is written to DIRECTORY/TARGET-crash-…; put it into tests/fuzz/corpus/TARGET/, where the tests
replay it, and mend the code.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.catalogue import TARGETS
from tests.fuzz.harness import CORPUS

GRACE = 120
"""Seconds beyond its time that a target may take to begin and to end."""
_FIGURES = {"runs": r"number_of_executed_units: (\d+)", "cover": r"cov: (\d+)(?!.*cov:)", "MB": r"peak_rss_mb: (\d+)"}


def main() -> int:
    """Run the command line; return how many targets failed."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="names of targets; without any: all")
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="for each target; default: 60")
    parser.add_argument("--crashes", type=Path, default=Path("."), metavar="DIRECTORY", help="default: here")
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), help="default: atheris where it is installed")
    parser.add_argument("--list", action="store_true", help="print each target with what it is held to")
    options = parser.parse_args()
    if options.list:
        for target in TARGETS.values():
            print(f"{target.name:20} {' '.join(target.oracle.split())}")
        return 0
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"there is no target {min(unknown)}; --list names all")
    engine = options.engine or ("atheris" if importlib.util.find_spec("atheris") else "hypothesis")
    options.crashes.mkdir(exist_ok=True)
    print(f"{'target':20} {'engine':10} {'runs':>9} {'cover':>6} {'MB':>5}  result", flush=True)
    return sum(_run(name, engine, options.seconds, options.crashes.resolve()) for name in options.targets or TARGETS)


def _run(name: str, engine: str, seconds: int, crashes: Path) -> bool:
    """Run one target in a process of its own; say whether it failed."""
    with tempfile.TemporaryDirectory(prefix="arv-ssh-fuzz-") as found:
        words = [name, str(seconds), found, str(CORPUS / name), str(crashes)]
        command = [sys.executable, "-m", "tests.fuzz.guided", engine, TARGETS[name].run.__module__, *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds + GRACE)
            output, status = done.stdout + done.stderr, done.returncode
        except subprocess.TimeoutExpired as error:
            output, status = f"{(error.stderr or b'')[-2000:]!r}\nit did not end in time", 1
    figures = [match[1] if (match := re.search(form, output, re.DOTALL)) else "" for form in _FIGURES.values()]
    runs, cover, memory = figures
    print(f"{name:20} {engine:10} {runs:>9} {cover:>6} {memory:>5}  {'failed' if status else 'held'}", flush=True)
    if status:
        print("\n".join(f"    {line}" for line in output.splitlines()[-60:]), flush=True)
    return bool(status)


if __name__ == "__main__":
    sys.exit(main())
