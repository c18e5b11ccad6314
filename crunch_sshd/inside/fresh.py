"""The beginning of a fresh process in a container, where none can be had from the ready process.

Owns what such a process must do that a fork of the ready process (:mod:`crunch_sshd.inside.ready`) finds done.
"""

from __future__ import annotations

import marshal
import os
import sys

from crunch_sshd.inside import enter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> int:
    """Do the job in the descriptor in argument 2 by the module in argument 1; return the exit status."""
    module, descriptor = sys.argv[1:]
    __import__(module)
    status: int = sys.modules[module].main(_load(int(descriptor)))
    return status


def _load(descriptor: int) -> dict[str, Any]:
    """Return the job, and keep its descriptors from being inherited any further."""
    with open(descriptor, "rb") as file:
        job: dict[str, Any] = marshal.loads(file.read())  # noqa: S302 - written by the gateway, into memory of its own
    for number in enter.handles(job):
        os.set_inheritable(number, False)
    enter.reset_signals()
    return job
