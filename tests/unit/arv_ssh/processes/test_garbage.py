"""What a process has once it serves is no longer looked at; what comes later is collected as ever."""

from __future__ import annotations

import gc
import weakref

from arv_ssh.processes import garbage


class Cycle:
    """An object that refers to itself: only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_spared() -> None:
    """Garbage of before is freed, the rest is spared, and garbage of after is found."""
    gone, kept, before = weakref.ref(Cycle()), Cycle(), gc.get_freeze_count()
    garbage.spare_what_is_here()
    try:
        assert gone() is None
        assert gc.get_freeze_count() > before
        assert not any(one is kept for one in gc.get_objects())
        later = weakref.ref(Cycle())
        gc.collect()
        assert later() is None
    finally:
        gc.unfreeze()
