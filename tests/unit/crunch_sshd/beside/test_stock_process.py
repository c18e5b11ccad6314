"""Which process is stock's, when the one that was called starts another and ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crunch_sshd.beside import stock_process

UUID = "zzzzz-dz642-abcdeabcdeabcde"
Start = Callable[..., int]


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / f"crunch-run-{UUID}.lock"


@pytest.fixture
def start(lock: Path) -> Iterator[Start]:
    """Start a process that holds the lock as stock passes it on, and is named in it; return its pid."""
    made: list[subprocess.Popen[bytes]] = []

    def begin(held: Path = lock, new_session: bool = False) -> int:
        script = 'exec 3<>"$0"; echo up; read line'
        process = subprocess.Popen(
            ["sh", "-c", script, held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=new_session
        )
        made.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        lock.write_text(json.dumps({"UUID": UUID, "PID": process.pid}))
        return process.pid

    yield begin
    for process in made:
        process.communicate()


@pytest.fixture
def ended() -> int:
    """A pidfd of a process that has ended, as the one that was called does."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    pidfd = os.pidfd_open(process.pid)
    process.wait()
    return pidfd


def find(lock: Path, launcher: int) -> int | None:
    ticks = iter(range(0, 1000, 3))
    return stock_process.find_detached(UUID, launcher, os.getsid(0), lock.parent, lambda: float(next(ticks)))


def test_the_holder_of_the_lock(lock: Path, start: Start, ended: int) -> None:
    """The process that the lock file names is found, alive, and its end is seen."""
    pid = start()
    pidfd = find(lock, ended)
    assert pidfd is not None and f"Pid:\t{pid}\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    assert not stock_process.has_ended(pidfd)
    os.kill(pid, 9)
    assert stock_process.has_ended(pidfd, 10)


def test_an_earlier_attempts(lock: Path, start: Start, ended: int) -> None:
    """A process of another session is another attempt's."""
    start(new_session=True)
    assert find(lock, ended) is None


@pytest.mark.parametrize("made", [os.mkfifo, lambda lock: lock.symlink_to("/dev/tty"), Path.mkdir])
def test_what_another_user_put_there(lock: Path, ended: int, made: Callable[[Path], object]) -> None:
    """The directory is everybody's: a pipe, a link or a directory at the lock's place keeps nobody waiting."""
    made(lock)
    assert find(lock, ended) is None


def test_a_pid_that_was_used_again(lock: Path, start: Start, ended: int, tmp_path: Path) -> None:
    """A process that does not hold the lock is not stock's, whatever the file says."""
    start(held=tmp_path / "another")
    assert find(lock, ended) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"PID": "x"}', '{"PID": 4194304}', '{"PID": 0}', '{"PID": -1}'])
def test_files_that_name_nobody(lock: Path, ended: int, text: str) -> None:
    """Nothing is made of a file that is not there, not yet written, or names no process."""
    if text:
        lock.write_text(text)
    assert find(lock, ended) is None
