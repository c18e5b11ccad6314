"""Starting a process that will run this package's code in a container's namespaces, with nothing that is ready for it.

Owns how Python is started for it, and how it gets the job that it reads first (:mod:`crunch_sshd.inside.fresh`).
:mod:`crunch_sshd.inside.starter` does the same in less time. Knows nothing of containers: the caller decides what is in
the job.
"""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crunch_sshd.inside import enter

PACKAGES = str(Path(__file__).resolve().parents[2])
"""Where the process finds this package: it runs without ``site``, which knows installed packages."""
BOOTSTRAP = (
    "import sys; sys.path.append(sys.argv.pop(1)); name = sys.argv.pop(1); "
    "sys.exit(__import__(name, fromlist=['main']).main())"
)
"""The code that the process runs. The packages come last on its path, so that none hides the standard library."""
FRESH = "crunch_sshd.inside.fresh"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC0"}
"""The whole environment: nothing from the gateway, nor from the container: its LD_PRELOAD would act before we enter.

With TZ set, the C library has no reason to look at /etc/localtime, which is later the container's.
"""
END_TIMEOUT = 1.0
"""Seconds for a killed process to end; after that, subprocess reaps it when it starts another."""


def start(module: str, job: dict[str, Any], streams: Sequence[int]) -> int:
    """Start ``module.main(job)`` in a fresh process; return its pid, as :meth:`Starter.start` does.

    The module may import the standard library and this package's own modules, no installed ones. The process is slow to
    begin (some 25 ms of processor time), but needs nothing to be there already.
    """
    with in_memory(marshal.dumps(job)) as words:
        child = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-I", "-S", "-c", BOOTSTRAP, PACKAGES, FRESH, module, str(words)],
            stdin=streams[0], stdout=streams[1], stderr=streams[2],
            pass_fds=[words, *enter.handles(job)],
            env=ENVIRONMENT,
            start_new_session=True,
        )  # fmt: skip
    child.returncode = 0  # from now on only the caller waits: Popen waits by pid, any time, for what it has let go of
    return child.pid


@contextmanager
def in_memory(content: bytes) -> Iterator[int]:
    """Yield a descriptor from which ``content`` can be read once; it is on no disk."""
    descriptor = os.memfd_create("job")
    try:
        with open(os.dup(descriptor), "wb") as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
