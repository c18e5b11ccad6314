"""The process that serves one SFTP channel inside a container; its arguments: directory to begin in, home."""

from __future__ import annotations

import os
import resource

from crunch_sshd.inside import enter
from crunch_sshd.inside.sftp.server import serve
from crunch_sshd.inside.sftp.wire import Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_HANDLES = 1000
"""Files and directories open at once; OpenSSH's server has room for as many with the usual limit of 1,024 files."""
OTHER_FILES = 16
"""Descriptors needed for anything else."""
BAD_MESSAGE = 11
"""The exit status after a broken packet, as OpenSSH's sftp-server."""


def main(job: dict[str, Any]) -> int:
    """Enter the job's container and serve; return the exit status."""
    directory, home = job["arguments"]
    try:
        enter.enter(job)
        return run(directory, home)
    except OSError as error:
        return _fail(1, f"sftp cannot enter the container: {error.strerror or error}")
    except MemoryError:
        return _fail(1, "sftp needs more memory than a process may have in this container (RLIMIT_DATA, RLIMIT_AS)")


def run(directory: str, home: str) -> int:
    """Serve the files that this process sees on stdin and stdout; return the exit status."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    limit = MAX_HANDLES if files == resource.RLIM_INFINITY else min(MAX_HANDLES, files - OTHER_FILES)
    try:
        _go_to(directory)
        serve(0, 1, os.fsencode(home), limit)
    except Malformed as error:
        return _fail(BAD_MESSAGE, f"the sftp client broke the protocol: {error}")
    except BrokenPipeError:
        pass  # the client is gone
    except OSError as error:
        return _fail(1, f"sftp cannot go on: {error}")
    return 0


def _go_to(directory: str) -> None:
    try:
        os.chdir(directory)
    except OSError:
        os.chdir("/")  # as sshd does for a user whose home is missing


def _fail(status: int, sentence: str) -> int:
    os.write(2, f"arv-ssh: {sentence}\n".encode("utf-8", "replace"))
    return status
