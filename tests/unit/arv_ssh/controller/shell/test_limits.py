"""Places for sessions: which limit refuses, how they come back, and that they hold over processes."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from arv_ssh.config.cluster_config import Limits
from arv_ssh.controller.shell.limits import SessionLimits
from arv_ssh.controller.shell.sessions import Attempt, LiveConnection
from arv_ssh.errors import HttpError, TooManySessions
from tests.timing import DEADLINE
from tests.unit.arv_ssh.controller.sessions import CONTAINER, USER, session

OTHER_USER = "zzzzz-tpzed-000000000000000"
OTHER_CONTAINER = "zzzzz-dz642-000000000000000"


def take(limits: SessionLimits, user: str = USER, container: str = CONTAINER) -> LiveConnection:
    live = session(user_uuid=user, container_uuid=container)
    asyncio.run(limits.take(live))
    return live


@pytest.fixture
def made(tmp_path: Path) -> Iterator[list[SessionLimits]]:
    """Ledgers of one run directory, as many as its test appends."""
    ledgers: list[SessionLimits] = []
    yield ledgers
    for one in ledgers:
        one.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [(Limits(per_user=2), r"you have 2 connections open here, .*ConnectionsPerUser: 2"),
     (Limits(per_container=2), rf"container {CONTAINER} has 2 connections open, .*ConnectionsPerContainer: 2"),
     (Limits(per_controller=2), r"this controller has 2 connections open, .*ConnectionsPerController: 2")],
)  # fmt: skip
def test_which_limit(tmp_path: Path, made: list[SessionLimits], limits: Limits, sentence: str) -> None:
    """A session over a limit is 429 with the limit's name and number; over two processes, too."""
    made += [SessionLimits(limits, tmp_path), SessionLimits(limits, tmp_path)]
    for one in made:
        take(one)
    for one in made:
        with pytest.raises(TooManySessions, match=sentence) as caught:
            take(one)
        assert caught.value.status == 429


def test_limits_count_what_they_are_of(tmp_path: Path, made: list[SessionLimits]) -> None:
    """Another user and another container have places of their own."""
    made.append(SessionLimits(Limits(per_user=1, per_container=1), tmp_path))
    take(made[0])
    take(made[0], OTHER_USER, OTHER_CONTAINER)
    with pytest.raises(TooManySessions, match="ConnectionsPerContainer"):
        take(made[0], "zzzzz-tpzed-111111111111111")


@pytest.mark.parametrize("user", [USER, OTHER_USER])
def test_a_session_that_may_not_go_on_leaves_the_slot_of_the_one_that_is_there(
    tmp_path: Path, made: list[SessionLimits], user: str
) -> None:
    """Nobody gets rid of a limit by asking, without the proof, to go on with a session that is open."""
    made.append(SessionLimits(Limits(per_user=1), tmp_path))
    live = take(made[0])
    asking = session(user_uuid=user, id=live.id, attempt=1)
    asyncio.run(made[0].take(asking))
    made[0].refused(Attempt("req-1", CONTAINER, "", "", user_uuid=user, session_id=live.id), HttpError("no proof"))
    with pytest.raises(TooManySessions):
        take(made[0])
    made[0].closed(live, "client left")
    take(made[0])


@pytest.mark.parametrize("known", [True, False])
def test_a_session_that_goes_on_counts_once(tmp_path: Path, made: list[SessionLimits], known: bool) -> None:
    """A session has one slot, however often it goes on, here or somewhere else before; it is given back at its end."""
    made.append(SessionLimits(Limits(per_user=2), tmp_path))
    live = session()
    if known:
        asyncio.run(made[0].take(live))
    for _ in range(3):
        again = session(id=live.id, attempt=1)
        asyncio.run(made[0].take(again))
        made[0].resumed(again, known)
        known = True
    other = take(made[0])
    with pytest.raises(TooManySessions):
        take(made[0])
    made[0].closed(again, "client left")
    made[0].closed(other, "client left")
    take(made[0])
    take(made[0])


def test_places_come_back(tmp_path: Path, made: list[SessionLimits]) -> None:
    """A session that is closed, and one that was refused after it had its place, gives that back once."""
    made.append(SessionLimits(Limits(per_controller=1), tmp_path))
    for _ in range(3):
        live = take(made[0])
        made[0].closed(live, "client left")
        refused = take(made[0])
        attempt = Attempt("req-1", CONTAINER, "", "", user_uuid=USER, session_id=refused.id)
        made[0].refused(attempt, HttpError("no gateway"))
        made[0].refused(attempt, HttpError("twice"))
    take(made[0])
    with pytest.raises(TooManySessions):
        take(made[0])


def test_limits_set_later_count_what_is_open(tmp_path: Path, made: list[SessionLimits]) -> None:
    """Without limits nothing is counted on disk; those that a reload brings count the sessions open by then."""
    made += [SessionLimits(Limits(), tmp_path), SessionLimits(Limits(), tmp_path)]
    for one in made:
        take(one)
    assert list(tmp_path.iterdir()) == []
    for one in made:
        one.reload(Limits(per_user=3))
    take(made[0])
    with pytest.raises(TooManySessions):
        take(made[1])


def test_a_client_that_does_not_wait_keeps_no_place(tmp_path: Path, made: list[SessionLimits]) -> None:
    """A place that is still being taken when its request is cancelled comes back."""
    made.append(SessionLimits(Limits(per_controller=1), tmp_path))

    async def scenario() -> None:
        with made[0]._lock:
            taking = asyncio.create_task(made[0].take(session()))
            await asyncio.sleep(0)
            taking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await taking
        await asyncio.get_running_loop().run_in_executor(made[0]._pool, lambda: None)
        await asyncio.sleep(0)  # the place's own callback comes before ours
        await made[0].take(session())

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))


WORKER = """
import asyncio, sys
from pathlib import Path
from arv_ssh.config.cluster_config import Limits
from arv_ssh.controller.shell.limits import SessionLimits
from arv_ssh.errors import TooManySessions
from tests.unit.arv_ssh.controller.sessions import session

async def scenario():
    limits = SessionLimits(Limits(per_user=10), Path(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.readline()
    results = await asyncio.gather(*(limits.take(session()) for _ in range(25)), return_exceptions=True)
    assert all(result is None or isinstance(result, TooManySessions) for result in results), results
    print(sum(result is None for result in results), flush=True)
    sys.stdin.readline()

asyncio.run(scenario())
"""


def test_a_burst_at_several_processes(tmp_path: Path) -> None:
    """Of a hundred logins at four processes exactly as many get in as may; a killed process's places are free."""
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         text=True)
        for _ in range(4)
    ]  # fmt: skip
    try:
        for worker in workers:
            assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            print(file=worker.stdin, flush=True)
        entered = [int(worker.stdout.readline()) for worker in workers if worker.stdout is not None]
        assert sum(entered) == 10
        ours = SessionLimits(Limits(per_user=10), tmp_path)
        with pytest.raises(TooManySessions):
            take(ours)
        victim = entered.index(max(entered))
        workers[victim].send_signal(signal.SIGKILL)
        workers[victim].wait(DEADLINE)
        for _ in range(entered[victim]):
            take(ours)
        with pytest.raises(TooManySessions):
            take(ours)
        ours.close()
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate(timeout=DEADLINE)
