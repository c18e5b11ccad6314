"""The sweep of ended containers' logs: by age, by size, and never those of a container that is not over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arv_ssh.config.container_logs import ContainerLogs
from arv_ssh.dispatch.log_sweep import INTERVAL, LogSweep

NOW = 2_000_000_000.0
OLD, MIDDLE, NEW = (f"zzzzz-dz642-{letter * 15}" for letter in "abc")
AGES = {OLD: 300.0, MIDDLE: 200.0, NEW: 100.0}


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Give a directory with the logs of three containers, 10 bytes each, and something that is nobody's log."""
    for uuid, age in AGES.items():
        (tmp_path / uuid).mkdir()
        for name, size in (("crunch-run.txt", 4), ("stderr.txt", 6)):
            path = tmp_path / uuid / name
            path.write_bytes(b"x" * size)
            os.utime(path, (NOW - age, NOW - age))
    (tmp_path / "lost+found").mkdir()
    return tmp_path


def left(logs: Path) -> set[str]:
    return {path.name for path in logs.iterdir()} - {"lost+found"}


def sweep(logs: Path, max_age: float, max_size: int, *in_use: str) -> set[str]:
    LogSweep(ContainerLogs(logs, max_age, max_size), clock=lambda: NOW).look(in_use)
    assert (logs / "lost+found").exists()
    return left(logs)


def test_age(logs: Path) -> None:
    """What was last written to longer ago than the limit goes."""
    assert sweep(logs, 150.0, 0) == {NEW}


def test_size(logs: Path) -> None:
    """The oldest go until the rest is within the limit, and no more of them."""
    assert sweep(logs, 0, 20) == {MIDDLE, NEW}


def test_no_limit(logs: Path) -> None:
    """With 0 everything stays."""
    assert sweep(logs, 0, 0) == set(AGES)


def test_in_use(logs: Path) -> None:
    """A container that is not over keeps its logs, however old and large; others make room for them."""
    assert sweep(logs, 150.0, 10, OLD) == {OLD}


def test_links(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A link among the logs is removed, not what it leads to."""
    other = tmp_path_factory.mktemp("other")
    (other / "file").write_text("kept")
    for path in (logs / OLD).iterdir():
        path.unlink()
    (logs / OLD / "link").symlink_to(other)
    os.utime(logs / OLD / "link", (NOW - 300, NOW - 300), follow_symlinks=False)
    assert OLD not in sweep(logs, 150.0, 0)
    assert (other / "file").read_text() == "kept"


def test_interval(logs: Path) -> None:
    """It looks once in a while, not at each poll."""
    now = NOW
    swept = LogSweep(ContainerLogs(logs, 1000.0, 0), clock=lambda: now)
    swept.look(())
    now += INTERVAL - 1
    for path in (logs / OLD).iterdir():
        os.utime(path, (0, 0))
    swept.look(())
    assert OLD in left(logs)
    now += 1
    swept.look(())
    assert OLD not in left(logs)


def test_no_directory(tmp_path: Path) -> None:
    """A directory that cannot be read is a line in the log, and the dispatcher goes on."""
    LogSweep(ContainerLogs(tmp_path / "gone", 1.0, 1)).look(())
