"""A process that enters a container as the file server does, and tells what system calls answer there.

It runs without what is installed: the standard library and ``crunch_sshd.inside`` only.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from crunch_sshd.inside import enter

PROBE = """
for words in calls:
    result = libc.syscall(*(ctypes.c_long(word) for word in words))
    answers.append((words, min(result, 0), ctypes.get_errno() if result < 0 else 0))
    ctypes.set_errno(0)
"""
"""What is compared, as text: the engine's exec runs the same in the image's own Python."""


def run(calls: list[list[int]]) -> list[tuple[list[int], int, int]]:
    """Return each call with its result and errno."""
    answers: list[tuple[list[int], int, int]] = []
    libc = ctypes.PyDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    exec(PROBE, {"calls": calls, "libc": libc, "ctypes": ctypes, "answers": answers})
    return answers


def main(job: dict[str, Any]) -> int:
    """Enter by the job; make the calls in its arguments, numbers with commas; print the answers."""
    calls = [[int(number) for number in word.split(",")] for word in job["arguments"]]
    enter.enter(job)
    os.write(1, repr(run(calls)).encode())
    return 0
