"""Starting a process that will run this package's code in a container's namespaces: only this module does so.

Owns how Python is started for it, and the job that it reads first (:func:`crunch_sshd.inside.enter.load`). Knows
nothing of containers: the caller decides what is in the job.
"""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGES = str(Path(__file__).resolve().parents[2])
"""Where the process finds this package: it runs without ``site``, which knows installed packages."""
BOOTSTRAP = (
    "import sys; sys.path.append(sys.argv.pop(1)); name = sys.argv.pop(1); "
    "sys.exit(__import__(name, fromlist=['main']).main())"
)
"""The code that the process runs. The packages come last on its path, so that none hides the standard library."""
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC0"}
"""The whole environment: nothing from the gateway, nor from the container: its LD_PRELOAD would act before we enter.

With TZ set, the C library has no reason to look at /etc/localtime, which is later the container's.
"""


def start(
    module: str,
    job: Mapping[str, Any],
    arguments: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    **popen: Any,
) -> subprocess.Popen[bytes]:
    """Start ``module.main()`` in a fresh process that can read ``job`` and has its ``descriptors``.

    In that process ``sys.argv[1]`` is for :func:`enter.load`, and ``arguments`` follow; the module may import the
    standard library and this package's own modules, no installed ones. ``popen`` goes to :class:`subprocess.Popen`.
    Raises OSError.
    """
    with _in_memory(marshal.dumps(dict(job))) as words:
        return subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-I", "-S", "-c", BOOTSTRAP, PACKAGES, module, str(words), *arguments],
            pass_fds=[words, *job["descriptors"], *pass_fds],
            env=ENVIRONMENT,
            **popen,
        )


@contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("job")
    try:
        with open(os.dup(descriptor), "wb") as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
