"""The one unit that every time-out of the tests is a multiple of."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SCALE = float(os.environ.get("ARV_SSH_TEST_TIMEOUT_SCALE", "1"))
"""Raise it on a slow or loaded machine."""

SECOND = SCALE
"""One second of the tests' time."""

DEADLINE = 60 * SECOND
"""For anything a test waits for: many times what it takes, since machines are loaded."""

POLL = 0.05
"""Seconds between two looks at what announces itself in no other way; not a time-out, so not scaled."""


def wait_for(look: Callable[[], T | None], what: str = "it", deadline: float = DEADLINE) -> T:
    """Look until there is something to see, and return it; fail at the deadline, in seconds from now."""
    end = time.monotonic() + deadline
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < end, f"waited {deadline:g} s for {what}"
        time.sleep(POLL)
