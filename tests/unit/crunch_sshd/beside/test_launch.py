"""What stock crunch-run sees when it is called through us, compared with being called itself: nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.timing import DEADLINE

UUID = "zzzzz-dz642-abcdeabcdeabcde"
PROGRAM = Path(sys.executable).with_name("crunch-run-beside")
TELL = """#!/bin/sh
for word; do printf '[%s]' "$word"; done
umask; ulimit -n; ulimit -c; pwd
tr '\\0' '\\n' </proc/$$/environ
grep -E 'Sig(Ign|Blk)|Groups|NoNewPrivs' /proc/self/status
find /proc/self/fd -mindepth 1 -printf '%f '
cat
echo trouble >&2
exit 7
"""
"""A program at stock's place that tells all it can see."""


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    file = tmp_path / "crunch-run"
    file.write_text(TELL)
    file.chmod(0o755)
    return file


def called(*words: str | Path, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    given = {"PATH": "/usr/bin:/bin", "X": "a=b\nc"} | environment
    return subprocess.run(words, input=stdin, capture_output=True, timeout=DEADLINE, env=given, cwd="/usr")


def beside(*words: str | Path, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Call the same through us."""
    return called(PROGRAM, *words, stdin=stdin, **environment)


@pytest.mark.parametrize(
    ("words", "size"),
    [(("--list",), 0), (("--list", "--stdin-prices"), 100), (("--kill", "15", UUID), 0), (("--what", UUID, "more"), 9),
     *((("--detach", "--stdin-config", UUID), size) for size in (0, 100, 300_000, 3_000_000)), ((UUID,), 100)],
)  # fmt: skip
def test_stock_sees_the_same(stock: Path, words: tuple[str, ...], size: int) -> None:
    """Words, environment, signals, limits, descriptors, standard input, status: all as without us.

    Here no sidecar can be started: what the dispatcher told is not enough.
    """
    stdin = b"x" * size  # the last size is more than a pipe may hold
    alone, ours = called(stock, *words, stdin=stdin), beside(f"--stock={stock}", *words, stdin=stdin)
    assert ours.stdout == alone.stdout
    assert ours.returncode == alone.returncode == 7
    assert ours.stderr.endswith(b"trouble\n")
    assert len(ours.stderr.splitlines()) == (2 if words[-1] == UUID and words[0] != "--kill" else 1)


def test_mistakes_are_told_and_stock_runs(stock: Path) -> None:
    """A mistake in our options costs the gateway, not the job; the sentence has no secret."""
    done = beside(
        f"--stock={stock}", "--gateway-memory=1", UUID, ARVADOS_API_HOST="api", ARVADOS_API_TOKEN="v2/hunter2",
        GatewayAuthSecret="hunter2",
    )  # fmt: skip
    assert done.returncode == 7 and b"GatewayAddress" not in done.stdout
    said, trouble = done.stderr.splitlines()
    assert b"runs without our gateway: --gateway-memory '1' is not a size" in said and b"hunter2" not in said


def test_no_stock(tmp_path: Path) -> None:
    """Where there is nothing to call, one sentence says what to do, and the status is a shell's."""
    done = beside(f"--stock={tmp_path}/none", "--list")
    assert (done.returncode, done.stdout) == (127, b"")
    assert done.stderr.startswith(b"crunch-run-beside: --stock") and done.stderr.count(b"\n") == 1


def test_the_process_is_stocks(tmp_path: Path) -> None:
    """The process that was called is stock's from then on: a signal to it reaches stock, and its end is told."""
    file = tmp_path / "crunch-run"
    file.write_text("#!/bin/sh\necho $$\nexec sleep 1000\n")
    file.chmod(0o755)
    command, null = [str(PROGRAM), f"--stock={file}", UUID], subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=null) as process:
        assert process.stdout is not None and int(process.stdout.readline()) == process.pid
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(DEADLINE) == -signal.SIGTERM


def test_closed_streams(stock: Path) -> None:
    """With standard input closed, stock runs as it would."""
    alone = called("/bin/sh", "-c", f"exec {stock} --stdin-config {UUID} <&-")
    ours = called("/bin/sh", "-c", f"exec {PROGRAM} --stock={stock} --stdin-config {UUID} <&-")
    assert (ours.returncode, ours.stdout) == (alone.returncode, alone.stdout)


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-", "2>&1 >/dev/null | true"])
def test_nobody_hears_us(stock: Path, tmp_path: Path, stderr: str) -> None:
    """Where a sentence of ours cannot be written, stock runs all the same, and its output has none of it."""
    ran = tmp_path / "ran"
    stock.write_text(f"#!/bin/sh\n: >{ran}\necho of stock\n")
    done = called("/bin/sh", "-c", f"exec {PROGRAM} --stock={stock} --gateway-memory=1 {UUID} {stderr}")
    assert ran.exists() and done.stdout in (b"of stock\n", b"")


def test_locale(stock: Path) -> None:
    """Python's own variable for the C locale (PEP 538) does not reach stock."""
    done = beside(f"--stock={stock}", "--list", LC_ALL="C")
    assert b"LC_CTYPE" not in done.stdout and b"LC_ALL=C\n" in done.stdout
