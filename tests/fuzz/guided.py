"""The process that one target runs in: engine, module, target, seconds; directories of finds, corpus, crashes."""

from __future__ import annotations

import importlib
import logging
import sys
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.harness import CPU_SECONDS, MAX_INPUT, Target, inputs, run_one

PACKAGES = ["arv_ssh", "crunch_sshd"]


def main() -> None:
    """Run until the time is over or an input fails."""
    engine, module, name, seconds, found, corpus, crashes = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    if engine == "atheris":
        _atheris(module, name, seconds, [found, corpus], f"{crashes}/{name}-")
    else:
        _hypothesis(_target(module, name), float(seconds), crashes)


def _target(module: str, name: str) -> Target:
    targets: tuple[Target, ...] = importlib.import_module(module).TARGETS
    return next(one for one in targets if one.name == name)


def _atheris(module: str, name: str, seconds: str, directories: list[str], prefix: str) -> None:
    import atheris

    with atheris.instrument_imports(include=PACKAGES):
        target = _target(module, name)
    options = [
        f"-max_total_time={seconds}", f"-max_len={MAX_INPUT}", f"-timeout={int(10 * CPU_SECONDS)}",
        "-rss_limit_mb=1024", "-print_final_stats=1", f"-artifact_prefix={prefix}",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, *directories], lambda data: run_one(target, data))
    atheris.Fuzz()


def _hypothesis(target: Target, seconds: float, crashes: str) -> None:
    runs, last = 0, b""
    end = time.monotonic() + seconds

    def one(data: Any) -> None:
        nonlocal runs, last
        runs, last = runs + 1, data
        run_one(target, data)

    checked = settings(max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    number = 0
    try:
        while time.monotonic() < end:
            seed(number)(checked(given(inputs(target))(one)))()
            number += 1
    except BaseException:
        Path(crashes, f"{target.name}-crash-hypothesis").write_bytes(last)  # the smallest it found
        raise
    finally:
        print(f"number_of_executed_units: {runs}")


if __name__ == "__main__":
    main()
