"""What ps shows of a process that took on a title."""

from __future__ import annotations

import subprocess
import sys

import pytest

from crunch_sshd.inside.start import PACKAGES

PROGRAM = """
import os, sys
sys.path.append(sys.argv[1])
from crunch_sshd.inside.title import CommandLine
line = CommandLine()
if os.fork() == 0:
    line.show("a-name-longer-than-15", title)
    sys.stdout.buffer.write(open("/proc/self/cmdline", "rb").read().rstrip(bytes(1)) + b"|")
    sys.stdout.buffer.write(open("/proc/self/comm", "rb").read())
    sys.stdout.buffer.write(open("/proc/self/environ", "rb").read().rstrip(bytes(1)))
    sys.exit()
os.wait()
sys.stdout.buffer.write(b"|" + open("/proc/self/cmdline", "rb").read())
"""


@pytest.mark.parametrize("title", ["a title", "a title" * 700])
def test_of_a_fork(title: str) -> None:
    """A fork shows its own title, as far as there is room; its variables and its parent's words stay as they were."""
    words = [sys.executable, "-I", "-S", "-c", f"title = {title[:7]!r} * {len(title) // 7}{PROGRAM}", PACKAGES]
    done = subprocess.run(words, capture_output=True, env={"WHAT": "variable"}, check=True)
    shown, rest, parent = done.stdout.split(b"|", 2)
    room = sum(len(word) + 1 for word in words)
    assert shown.decode() == title[: room - 1]
    assert rest == b"a-name-longer-t\nWHAT=variable"
    assert parent.decode().split("\0")[:-1] == words
