"""arvados-client speedtest: figures for each kind of image, progress for each kind of stderr, and its refusals."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.terminal import TerminalSession
from tests.integration.test_errors import ARVADOS_CLIENT, NO_SUCH_CONTAINER
from tests.timing import DEADLINE

QUICK = ("--seconds", "0.3", "--keystrokes", "5")
FIGURES = ("connect_ms", "echo_median_ms", "echo_p99_ms", "down_mb_per_s", "up_mb_per_s")


@pytest.fixture(autouse=True)
def own_settings(cluster: EmbeddedCluster, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment of a user of the cluster whose home is empty."""
    monkeypatch.setenv("HOME", str(home))
    for line in cluster.directory.env.read_text().splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        monkeypatch.setenv(name, value)


def speedtest(*words: str) -> subprocess.CompletedProcess[str]:
    """Run speedtest to its end."""
    return subprocess.run(
        [ARVADOS_CLIENT, "speedtest", *words], capture_output=True, text=True, timeout=2 * DEADLINE
    )


def test_figures(busybox: str) -> None:
    """Each figure is measured, the slowest keystrokes are no faster than the median, and stderr has a line for each."""
    done = speedtest(*QUICK, "--json", busybox)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["container"] == busybox and result["down_by"] == result["up_by"] == "cat"
    assert all(result[name] > 0 for name in FIGURES)
    assert result["echo_p99_ms"] >= result["echo_median_ms"] and result["connect_ms"] > result["echo_median_ms"]
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["connect", "echo", "down", "up"]


def test_an_image_with_a_shell_alone(cluster: EmbeddedCluster) -> None:
    """Where not even cat is found, the shell itself sends and reads, and the table says so."""
    uuid = cluster.run("/bin/sleep", "1000000", image="arv-ssh/debian:test", options=("--env", "PATH=/nowhere"))
    done = speedtest(*QUICK, uuid)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert list(lines) == ["container", "connect", "echo", "down", "up"]
    assert all("by the shell itself" in lines[name] and " 0.0 MB/s" not in lines[name] for name in ("down", "up"))


def test_a_progress_bar_on_a_terminal(busybox: str) -> None:
    """On a terminal a bar grows for each measurement, and is cleared before the figures."""
    with TerminalSession([ARVADOS_CLIENT, "speedtest", *QUICK, busybox]) as session:
        for name in ("connect", "echo", "down", "up"):
            assert b"#" in session.expect(f"\r{name:<8}[####") + session.expect("MB/s" if name in "up down" else "ms")
        session.expect("\r\x1b[Kcontainer")
        assert session.wait() == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "speedtest needs a container's UUID; see "),
        (("--seconds", "0", NO_SUCH_CONTAINER), "--seconds is '0'; give a number above 0"),
        (("--keystrokes", "many", NO_SUCH_CONTAINER), "--keystrokes is 'many'"),
        ((NO_SUCH_CONTAINER,), f"container {NO_SUCH_CONTAINER} was not found"),
    ],
)
def test_refusals(words: tuple[str, ...], said: str) -> None:
    """A wrong command line and a container that is not there are one line on stderr."""
    done = speedtest(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (255, "", 1) and said in done.stderr


def test_no_shell(scratch: str) -> None:
    """An image without a shell is named as the reason."""
    done = speedtest(*QUICK, scratch)
    assert (done.returncode, done.stdout) == (255, "")
    assert "speedtest needs /bin/sh, which this container lacks" in done.stderr


def test_no_ssh(busybox: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ssh on the PATH that is what is said."""
    monkeypatch.setenv("PATH", str(tmp_path))
    done = speedtest(*QUICK, busybox)
    assert done.returncode == 255 and "no ssh program on the PATH" in done.stderr
