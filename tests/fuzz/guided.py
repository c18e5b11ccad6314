"""The process that one target runs in: engine, target, seconds, a directory for new inputs, its corpus, for crashes."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

PACKAGES = ["arv_ssh", "crunch_sshd"]


def main() -> None:
    """Run until the time is over or an input fails."""
    engine, name, seconds, found, corpus, crashes = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    if engine == "atheris":
        _atheris(name, seconds, [found, corpus], f"{crashes}/{name}-")
    else:
        _hypothesis(name, float(seconds), crashes)


def _atheris(name: str, seconds: str, directories: list[str], prefix: str) -> None:
    import atheris

    with atheris.instrument_imports(include=PACKAGES):
        from tests.fuzz.targets import TARGETS
    from tests.fuzz.harness import CPU_SECONDS, MAX_INPUT, run_one

    target = TARGETS[name]
    options = [
        f"-max_total_time={seconds}", f"-max_len={MAX_INPUT}", f"-timeout={int(10 * CPU_SECONDS)}",
        "-rss_limit_mb=1024", "-print_final_stats=1", f"-artifact_prefix={prefix}",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, *directories], lambda data: run_one(target, data))
    atheris.Fuzz()


def _hypothesis(name: str, seconds: float, crashes: str) -> None:
    from pathlib import Path

    from hypothesis import HealthCheck, given, seed, settings

    from tests.fuzz.harness import inputs, run_one
    from tests.fuzz.targets import TARGETS

    target, runs, last = TARGETS[name], 0, b""
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
        Path(crashes, f"{name}-crash-hypothesis").write_bytes(last)  # the last is the smallest that hypothesis found
        raise
    finally:
        print(f"number_of_executed_units: {runs}")


if __name__ == "__main__":
    main()
