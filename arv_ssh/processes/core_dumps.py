"""Keeping the memory of this process off the disk, and away from debuggers of the same user.

Owns one switch of the kernel's. Programs that know the SystemRootToken or a container's secret set it first thing; an
exec resets it, so programs that they start have core dumps and debuggers as usual.
"""

from __future__ import annotations

import ctypes
import sys

PR_SET_DUMPABLE = 4


def forbid() -> None:
    """Keep the kernel from dumping this process's core, and let only root trace it or read its memory (prctl(2)).

    RLIMIT_CORE would not do: children inherit it, users' programs among them, and a pipe in core_pattern(5) ignores it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # cannot fail with the values that we pass
