"""Starting a thread where there may be no room for one: not only the container's user can run out of them.

Ensures that the failure is an OSError, which any code that starts a thread for a client handles; Python's own is a
RuntimeError, which would end the thread that serves the whole connection.
"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable

NO_ROOM = (OSError, RuntimeError, subprocess.SubprocessError)
"""What starting a process, or a thread for it, may raise on a host without room."""


def reason(error: Exception) -> str:
    """Return the system's words for one of :data:`NO_ROOM`."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def start(work: Callable[[], object], name: str, *, daemon: bool = True) -> threading.Thread:
    """Run ``work`` in a new thread. Raises OSError when the system has no room for one."""
    thread = threading.Thread(target=work, name=name, daemon=daemon)
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
    return thread
