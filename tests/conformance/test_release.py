"""Letting go of a process and ending it are two things, in whatever order two threads come to them."""

from __future__ import annotations

from tests.conformance.places import Place
from tests.timing import wait_for


def running(place: Place, marker: str) -> bool:
    """Say whether the container still has the test's process, as ps there lists it."""
    return marker in place.engine.exec(place.container, "ps", "-o", "args")


def test_close_does_not_touch_the_process(place: Place) -> None:
    """Closing wakes the reader and leaves the process alone; it may come twice."""
    marker = "sleep 271801"
    started = place.shell(f"echo up; exec {marker}")
    started.says(b"up")
    started.process.close()
    started.process.close()
    assert started.is_read_to_its_end()
    assert running(place, marker)
    started.process.hang_up()


def test_hang_up_after_close(place: Place) -> None:
    """A process that one thread has let go of already is still ended by the other, whose turn comes late."""
    marker = "sleep 271802"
    started = place.shell(f"echo up; exec {marker}")
    started.says(b"up")
    started.process.close()
    started.process.hang_up()
    wait_for(lambda: not running(place, marker), "the end of the process")
