"""Garbage collection in a process that serves for days.

Owns one switch of the interpreter's. A full collection looks at each object there is, and everybody who types a key
waits for it; nearly all objects are modules, which never become garbage.
"""

from __future__ import annotations

import gc


def spare_what_is_here() -> None:
    """Take what is not garbage now out of all later collections (gc.freeze). Call it once, when all is imported."""
    gc.collect()
    gc.freeze()
