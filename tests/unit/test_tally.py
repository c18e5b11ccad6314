""".ci/tally: what it adds up from JUnit files, and what its last lines say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.timing import DEADLINE

TALLY = Path(__file__).parents[2] / ".ci" / "tally"
CASES = {
    "passed": "",
    "failed": '<failure message="assert 1 == 2"/>',
    "error": '<error message="fixture"/>',
    "skipped": '<skipped message="needs root"/>',
}


def junit(path: Path, **outcomes: str) -> str:
    """Write a JUnit file with a test for each name, and return its path."""
    cases = (f'<testcase classname="tests.x" name="{name}">{CASES[what]}</testcase>' for name, what in outcomes.items())
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return str(path)


def tally(directory: Path, *files: str, expected: str = "") -> tuple[int, list[str]]:
    """Return the exit status and the lines of both streams, as a log of both has them."""
    skips = directory / "expected-skips"
    skips.write_text(expected)
    done = subprocess.run(
        [sys.executable, TALLY, skips, *files], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=DEADLINE,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines()


def test_all_passed(tmp_path: Path) -> None:
    """Passed tests of several files are one line and a success."""
    files = junit(tmp_path / "a.xml", one="passed", two="passed"), junit(tmp_path / "b.xml", three="passed")
    assert tally(tmp_path, *files, "--again") == (0, ["tests: 3 passed, 0 failed, 0 skipped"])


def test_passed_only_the_second_time(tmp_path: Path) -> None:
    """A test that failed and then passed is named just before the last line, and counts as passed."""
    first = junit(tmp_path / "first.xml", good="passed", shaky="failed", slow="error")
    again = junit(tmp_path / "again.xml", shaky="passed", slow="passed")
    assert tally(tmp_path, first, "--again", again) == (0, [
        "passed only the second time: tests.x::shaky",
        "passed only the second time: tests.x::slow",
        "tests: 3 passed, 0 failed, 0 skipped",
    ])  # fmt: skip


def test_failed_twice(tmp_path: Path) -> None:
    """A test that failed twice has failed; what passed both times is not named."""
    first = junit(tmp_path / "first.xml", good="passed", bad="failed")
    again = junit(tmp_path / "again.xml", good="passed", bad="failed")
    assert tally(tmp_path, first, "--again", again) == (1, ["tests: 1 passed, 1 failed, 0 skipped"])


def test_teardown_that_failed(tmp_path: Path) -> None:
    """A test whose end failed, which pytest writes down a second time, has failed."""
    files = junit(tmp_path / "a.xml", one="passed", two="passed"), junit(tmp_path / "b.xml", two="error")
    assert tally(tmp_path, *files) == (1, ["tests: 1 passed, 1 failed, 0 skipped"])


@pytest.mark.parametrize("expected", ["", "# tests.x::odd\n", "tests.y::*\n"])
def test_unexpected_skip(tmp_path: Path, expected: str) -> None:
    """A skip that no line expects is named with its reason, before the other lines, and is a failure."""
    first = junit(tmp_path / "first.xml", odd="skipped", shaky="failed")
    again = junit(tmp_path / "again.xml", shaky="passed")
    assert tally(tmp_path, first, "--again", again, expected=expected) == (1, [
        "unexpected skip: tests.x::odd: needs root",
        "passed only the second time: tests.x::shaky",
        "tests: 1 passed, 0 failed, 1 skipped",
    ])  # fmt: skip


def test_expected_skip(tmp_path: Path) -> None:
    """A skip that a line expects is counted, and nothing more."""
    file = junit(tmp_path / "a.xml", one="passed", odd="skipped")
    assert tally(tmp_path, file, expected="# why\ntests.x::o*  # no root here\n") == (
        0, ["tests: 1 passed, 0 failed, 1 skipped"]
    )  # fmt: skip


def test_nothing_ran(tmp_path: Path) -> None:
    """A run without a passed test is a failure."""
    assert tally(tmp_path) == (1, ["tests: 0 passed, 0 failed, 0 skipped"])
