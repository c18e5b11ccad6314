"""The processes that the gateway starts in containers: begun in either of the two ways, and what they write."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any, NoReturn

import pytest

from crunch_sshd.inside import start
from crunch_sshd.inside.starter import Starter
from crunch_sshd.runtimes import entry
from crunch_sshd.runtimes.child import Child
from tests.timing import DEADLINE

READY, FRESH = "from the ready process", "fresh"
WAYS = (READY, FRESH)


@contextmanager
def begun(way: str) -> Iterator[None]:
    """Have processes begin in one of :data:`WAYS`, never the other; they find the tests' own modules."""
    starter = Starter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "PACKAGES", str(Path(__file__).parents[1]))
        patch.setattr(entry, "starter", starter)
        patch.setattr(entry, "start", _refuse) if way == READY else patch.setattr(starter, "start", _refuse)
        yield
        starter.close()


def _refuse(*_: Any) -> NoReturn:
    raise OSError("not in this way")


def piped(script: str) -> Child:
    """Return a child with pipes that runs ``script`` in Python."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script], stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        ours = [os.dup(one.fileno()) for one in (process.stdin, process.stdout, process.stderr)]
        process.returncode = 0  # only the caller waits
    return Child(process.pid, ours)


def communicate(child: Child) -> tuple[bytes, bytes]:
    """Return all that a child writes to its two outputs, and close its pipes. It is not waited for."""
    os.close(child.stdin)
    with ThreadPoolExecutor(2) as pool:
        out, err = (pool.submit(_read, one) for one in (child.stdout, child.stderr))
        return out.result(DEADLINE), err.result(DEADLINE)


def _read(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()
