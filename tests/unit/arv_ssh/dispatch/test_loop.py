import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from typing import cast

import pytest

from arv_ssh.api.client import ApiClient
from arv_ssh.dispatch import loop as loop_module
from arv_ssh.dispatch.loop import Loop, listen
from arv_ssh.errors import NotFound, Unavailable
from tests.timing import DEADLINE


class Api:
    """Tells of changes, one in each of ``streams``; an exception in there is raised; then it never tells again."""

    def __init__(self, *streams: Iterable[Exception | None]) -> None:
        self._streams = list(streams)

    def container_changes(self) -> Iterator[None]:
        if not self._streams:
            threading.Event().wait()
        for one in self._streams.pop(0):
            if one is not None:
                raise one
            yield


class Enough(Exception):
    """Ends a listener."""


def test_listening() -> None:
    """Each line makes a look; after an end or a failure it listens again, and where nobody tells it asks rarely."""
    looks: list[None] = []
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise Enough

    api = Api([None, None], [None, Unavailable("cut")], [NotFound("no such path")])
    with pytest.raises(Enough):
        listen(cast(ApiClient, api), lambda: looks.append(None), pause)
    assert len(looks) == 3
    assert pauses == [loop_module.LISTEN_AGAIN, loop_module.LISTEN_AGAIN, loop_module.NOT_TOLD]


class Dispatcher:
    """Does what ``polls`` say, one at each poll: an exception is raised, a number is signalled to us."""

    def __init__(self, *polls: int | Exception | bool, seconds: float = 0.0) -> None:
        self._polls = list(polls)
        self._seconds = seconds
        self.polled: list[float] = []

    def poll(self) -> bool:
        self.polled.append(time.monotonic())
        time.sleep(self._seconds)
        one = self._polls.pop(0)
        if isinstance(one, Exception):
            raise one
        if isinstance(one, bool):
            return one
        os.kill(os.getpid(), one)
        return False


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Restore the handlers of signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(dispatcher: Dispatcher, api: Api, interval: float, *, children: bool = False, pace: float = 0.01) -> None:
    Loop(dispatcher, interval, None, children=children, pace=pace).run(cast(ApiClient, api))


def test_a_signal_ends_it() -> None:
    """SIGTERM is the end, after the poll under way."""
    dispatcher = Dispatcher(signal.SIGTERM)
    run(dispatcher, Api(), DEADLINE)
    assert len(dispatcher.polled) == 1


def test_it_polls_when_told() -> None:
    """A change makes it poll long before the interval is over; changes at once make one poll."""
    dispatcher = Dispatcher(False, signal.SIGTERM)
    run(dispatcher, Api([None, None, None]), 100 * DEADLINE)
    assert len(dispatcher.polled) == 2


def test_it_polls_besides() -> None:
    """Untold, it polls when the interval is over, also after a poll that failed."""
    dispatcher = Dispatcher(False, Unavailable("away"), OSError("disk"), signal.SIGTERM)
    run(dispatcher, Api(), 0.01)
    assert len(dispatcher.polled) == 4


def test_more_to_do() -> None:
    """When some still wait, the next poll comes at once."""
    dispatcher = Dispatcher(True, signal.SIGTERM)
    run(dispatcher, Api(), 100 * DEADLINE)
    assert len(dispatcher.polled) == 2


def test_a_child_that_ends_is_news() -> None:
    """The end of a child makes it poll, where children are crunch-runs."""
    dispatcher = Dispatcher(signal.SIGCHLD, signal.SIGTERM)
    run(dispatcher, Api(), 100 * DEADLINE, children=True)
    assert len(dispatcher.polled) == 2


def flood() -> Iterator[None]:
    """Tell of changes for longer than any of the tests takes."""
    for _ in range(5000):
        time.sleep(0.001)
        yield


def test_a_flood_of_changes() -> None:
    """However often it is told, slow polls take half of the time at most, and quick ones keep their distance."""
    for seconds, pace in ((0.2, 0.0), (0.0, 0.2)):
        dispatcher = Dispatcher(False, False, signal.SIGTERM, seconds=seconds)
        run(dispatcher, Api(flood()), 100 * DEADLINE, pace=pace)
        first, second, third = dispatcher.polled
        assert second - first >= seconds + 0.2 and third - second >= seconds + 0.2
