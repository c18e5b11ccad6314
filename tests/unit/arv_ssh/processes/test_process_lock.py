import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arv_ssh.processes import process_lock

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"


def hold(
    path: Path, program: str = "print('up', flush=True); import signal; signal.pause()"
) -> subprocess.Popen[bytes]:
    """Start a process that holds the lock, and return it once it is up."""
    lock = process_lock.acquire(path)
    assert lock
    child = subprocess.Popen([sys.executable, "-c", program], pass_fds=(lock.descriptor,), stdout=subprocess.PIPE)
    lock.hand_over(child.pid)
    assert child.stdout and child.stdout.readline() == b"up\n"
    child.stdout.close()
    return child


def test_a_free_lock(tmp_path: Path) -> None:
    """A file that is not there, or that nobody holds, is free."""
    path = tmp_path / "lock"
    assert not process_lock.is_held(path)
    lock = process_lock.acquire(path)
    assert lock and process_lock.is_held(path)
    lock.close()
    assert not process_lock.is_held(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_held_as_long_as_the_child_lives(tmp_path: Path) -> None:
    """The child holds the lock after we let go of it, and the kernel frees it when the child is killed."""
    path = tmp_path / "lock"
    with hold(path) as child:
        assert process_lock.is_held(path)
        assert process_lock.acquire(path) is None
        assert process_lock.holder_pid(path) == child.pid
        child.kill()
        child.wait()
        assert not process_lock.is_held(path)
        assert process_lock.holder_pid(path) is None


def test_a_signal_reaches_the_holder_only(tmp_path: Path) -> None:
    """The holder gets the signal; with the lock free, the pid in the file gets none, whoever has it now."""
    path = tmp_path / "lock"
    with hold(path) as child:
        assert process_lock.send_signal(path, signal.SIGTERM)
        assert child.wait(10) == -signal.SIGTERM
    path.write_text(f"{os.getpid()}\n")
    assert not process_lock.send_signal(path, signal.SIGKILL)
    assert process_lock.end(path, 0)


@pytest.mark.parametrize(
    ("program", "by_itself"), [("print('up', flush=True); import signal; signal.pause()", True), (STUBBORN, False)]
)
def test_end(tmp_path: Path, program: str, by_itself: bool) -> None:
    """A process is asked to end, and made to when it does not."""
    path = tmp_path / "lock"
    with hold(path, program) as child:
        assert process_lock.end(path, 10 if by_itself else 0.1) is by_itself
        child.wait(10)
    assert not process_lock.is_held(path)


def test_discard_removes_the_file(tmp_path: Path) -> None:
    """A discarded lock leaves no file."""
    path = tmp_path / "lock"
    lock = process_lock.acquire(path)
    assert lock
    lock.discard()
    assert not path.exists()
