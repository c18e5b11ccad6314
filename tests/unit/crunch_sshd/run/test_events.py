import os
import signal
import threading
from collections.abc import Iterator

import pytest

from crunch_sshd.run.events import STOPPING, Events


@pytest.fixture
def events() -> Iterator[Events]:
    """Return listening events; the handlers that were there before come back after the test."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    result = Events()
    result.listen()
    yield result
    for number, handler in before.items():
        signal.signal(number, handler)


def test_wait_for_ends_with_the_condition(events: Events) -> None:
    """A notification from another thread makes the main thread look at its condition again."""
    done: list[int] = []

    def work() -> None:
        done.append(1)
        events.notify()

    threading.Thread(target=work).start()
    assert events.wait_for(lambda: bool(done))


def test_a_wait_ends_in_time(events: Events) -> None:
    """A wait for what does not come ends after its time, whatever notifications come meanwhile."""
    events.notify()
    assert not events.wait_for(lambda: False, timeout=0.05)


def test_a_signal_ends_the_waits(events: Events) -> None:
    """SIGTERM ends a wait and every pause after it, until it is acknowledged."""
    threading.Timer(0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert not events.wait_for(lambda: False)
    assert events.signalled == "SIGTERM"
    assert not events.pause(60)
    events.acknowledge()
    assert events.pause(0.01)


def test_a_notification_does_not_end_a_pause(events: Events) -> None:
    """A pause is over when its time is, not when something else happens."""
    events.notify()
    assert events.pause(0.01)
