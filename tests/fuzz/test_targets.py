"""Every fuzz target on its corpus and on some inputs of hypothesis; scripts/fuzz does this for longer."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz import harness
from tests.fuzz.catalogue import TARGETS
from tests.fuzz.harness import CORPUS, Target, TooMuch, corpus, inputs, run_one
from tests.timing import DEADLINE

EXAMPLES = 60
KEPT = [(target.name, name) for target in TARGETS.values() for name in corpus(target)]
by_name = pytest.mark.parametrize("name", TARGETS)


@pytest.mark.parametrize(("name", "kept"), KEPT)
def test_an_input_of_the_corpus_is_handled(name: str, kept: str) -> None:
    run_one(TARGETS[name], corpus(TARGETS[name])[kept])


@by_name
def test_inputs_that_nobody_meant_are_handled(name: str) -> None:
    """The same ones each time: a failure can be looked at again."""
    checked = settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    checked(given(inputs(TARGETS[name]))(lambda data: run_one(TARGETS[name], data)))()


def test_each_target_has_a_corpus_and_each_corpus_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(corpus(target) for target in TARGETS.values())


def test_the_harness_catches_what_is_raised_and_what_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted crash, and a planted loop: a harness that let them pass would prove nothing."""

    def planted(data: bytes) -> None:
        assert b"x" not in data

    def slow(data: bytes) -> None:
        while time.process_time() <= begun + 0.2:
            pass

    target = Target("passwd", "", planted)
    with pytest.raises(AssertionError):
        settings(derandomize=True, database=None)(given(inputs(target))(lambda data: run_one(target, data)))()
    monkeypatch.setattr(harness, "CPU_SECONDS", 0.1)
    begun = time.process_time()
    with pytest.raises(TooMuch, match="processor time"):
        run_one(Target("slow", "", slow), b"")


def test_the_script_runs_a_target_and_prints_its_figures() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--engine", "hypothesis", "--seconds", "1", "detach-keys"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[1].split()[-1] == "held"
