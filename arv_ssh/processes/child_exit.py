"""The end of a child process, noticed at once.

``subprocess``'s own time-outs poll, eventually only every 50 ms: such a wait outlasts the child.
"""

from __future__ import annotations

import os
import select
import subprocess
from typing import Any


def exit_status(child: subprocess.Popen[Any], timeout: float) -> int:
    """Return the exit status of ``child`` as soon as there is one, at most ``timeout`` seconds from now.

    Raises TimeoutExpired. If this fails to learn of the child's end, for whatever reason, it kills the child.
    """
    try:
        _wait(child, timeout)
    except BaseException:
        child.kill()
        child.wait()
        raise
    return child.wait()


def _wait(child: subprocess.Popen[Any], timeout: float) -> None:
    descriptor = os.pidfd_open(child.pid)
    try:
        over = select.poll()
        over.register(descriptor, select.POLLIN)
        if not over.poll(timeout * 1000):
            raise subprocess.TimeoutExpired(child.args, timeout)
    finally:
        os.close(descriptor)
