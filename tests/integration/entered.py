"""What a child does that a test starts inside a container: says what it can still import, and what it has open."""

from __future__ import annotations

import os
import sys
from typing import Any

from crunch_sshd.inside import enter


def main(job: dict[str, Any]) -> int:
    """Enter by the job; print one line for each attempt."""
    enter.enter(job)
    for module in ("json", "antigravity", "_bisect", "encodings.punycode"):
        if module in sys.modules:
            continue
        try:
            __import__(module)
        except ImportError:
            print(f"{module} refused")
        else:
            print(f"{module} imported")
    print("open", *(number for number in range(1024) if _is_open(number)), flush=True)
    return 0


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
