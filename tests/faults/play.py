"""One cell: bring a session to its phase, apply the fault, see what the user sees, put right, look what is left.

Owns the order. What is expected is in ``matrix``.
"""

from __future__ import annotations

import re
import signal
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.faults import census, matrix, processes, stage
from tests.faults.matrix import Cell
from tests.faults.network import Links
from tests.faults.sessions import BEFORE, CLOSE, EXIT, Session, session
from tests.faults.stage import Stage
from tests.timing import DEADLINE, SECOND, wait_for

PAUSE = 4.0
"""Seconds that a process is stopped when it is only paused, or a link cut."""
SLACK = 25 * SECOND
"""Seconds by which a loaded machine may be later than what is stated."""
NEXT_SESSION = 30 * SECOND


@dataclass
class Outcome:
    """What happened in a cell; ``differs`` has a sentence for each thing that is not as it should be."""

    cell: str
    status: int | None = None
    said: str = ""
    seconds: float | None = None
    next_after: float | None = None
    record: str = ""
    put_right: str = ""
    differs: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def play(cell: Cell, place: Stage) -> Outcome:
    """Play a cell on a stage, and judge it."""
    outcome = Outcome(cell.name)
    try:
        _play(cell, place, outcome)
    except Exception as error:
        outcome.differs.append(f"the cell could not be played: {type(error).__name__}: {error}"[:600])
        traceback.print_exc()
    return outcome


def _play(cell: Cell, place: Stage, outcome: Outcome) -> None:
    before = census.take(place)
    controller = place.controller_pid()
    old = place.uuid
    with ExitStack() as stack:
        if cell.phase == BEFORE:
            stack.enter_context(fault(cell, place, None))
            began = time.monotonic()
            one = stack.enter_context(
                session(place.command(), place.environment(), BEFORE, place.place_for_session())
            )
        else:
            one = stack.enter_context(
                session(place.command(), place.environment(), cell.phase, place.place_for_session())
            )
            one.reach()
            if cell.phase == CLOSE and cell.fault == matrix.KILL:
                one.go_on()  # the end is under way when the fault comes
            began = time.monotonic()
            stack.enter_context(fault(cell, place, one))
        one.go_on()
        ended = one.wait(cell.expect.within + SLACK)
        if ended is None:
            outcome.differs.append(f"ssh was still there after {time.monotonic() - began:.0f} s")
            one.process.kill()
            one.process.wait()
        else:
            outcome.seconds = round(time.monotonic() - began, 1)
            outcome.status = one.process.returncode
        outcome.said = without_names(one.said.replace(old, "UUID"))
        if ended is not None:
            _judge_ending(cell, one, outcome)
    _judge_rest(cell, place, outcome, before, controller, old)


def without_names(text: str) -> str:
    """Return what ssh said without what differs each time."""
    text = re.sub(r"\b\d+\.\d+\.\d+\.\d+:\d+", "HOST", text)
    return re.sub(r"req-\w+", "req-…", text).strip()


def _judge_ending(cell: Cell, one: Session, outcome: Outcome) -> None:
    expect = cell.expect
    if outcome.status not in expect.statuses:
        wanted = " or ".join(map(str, expect.statuses))
        outcome.differs.append(f"ssh's exit status was {outcome.status}, not {wanted}")
    if outcome.status in (0, EXIT) and not one.is_whole():
        outcome.differs.append(f"exit status {outcome.status} although output is missing")
    if outcome.status not in (0, EXIT) and not expect.is_said(outcome.said):
        outcome.differs.append("no sentence says why")
    if expect.statuses == (EXIT,) and outcome.status == EXIT and outcome.said:
        outcome.differs.append("the session went well, but something was said")


def _judge_rest(
    cell: Cell, place: Stage, outcome: Outcome, before: census.Census, controller: int, old: str
) -> None:
    outcome.put_right = place.put_right(cell.victim)
    ends = cell.expect.container == matrix.ENDS and not (cell.victim == "gateway" and place.gateway_is_apart())
    outcome.record = place.wait_until_over(90 * SECOND) if ends else str(place.record()["state"])
    wanted = ("Complete" if cell.victim == "shim" else "Cancelled") if ends else "Running"
    if outcome.record != wanted:
        outcome.differs.append(f"the container's record says {outcome.record}, not {wanted}")
    if outcome.record != "Running":
        _judge_end_of_container(place, outcome, old)
        place.new_container()
    began = time.monotonic()
    wait_for(lambda: place.enter("exit 3").returncode == 3, "the next session", NEXT_SESSION)
    outcome.next_after = round(time.monotonic() - began, 1)
    if outcome.record == "Running":
        same = processes.is_alive(controller) and place.controller_pid() == controller
        outcome.differs += [f"{thing} left behind" for thing in census.left(place, before, same)]
    if cell.victim == "dispatcher":
        uuid = place.ask_for_container()
        wait_for(lambda: place.cluster.container(uuid)["state"] == "Running", "a new container to run")


def _judge_end_of_container(place: Stage, outcome: Outcome, old: str) -> None:
    record = place.cluster.container(old)
    if not record["exit_code"] and not (record["runtime_status"] or {}).get("error"):
        outcome.differs.append("the record does not say why the container ended")
    try:
        wait_for(lambda: not place.docker("ps", "-aq", "--filter", f"name={old}"), "the container to go")
    except AssertionError:
        outcome.differs.append("the container was not removed from the engine")


@contextmanager
def fault(cell: Cell, place: Stage, one: Session | None) -> Iterator[None]:
    """Apply the cell's fault; what can be lifted is lifted at the end of the block."""
    if cell.fault == matrix.FULL:
        with ExitStack() as stack:
            for name in matrix.DISKS_OF[cell.victim]:
                stack.enter_context(stage.full_disk(place.root / name))
            if cell.audit == "required" and cell.phase == BEFORE:
                _use_last_pages(place)
            yield
    elif cell.fault in (matrix.CUT, matrix.CUT_SHORTLY):
        yield from _cut(cell, place)
    elif cell.fault in (matrix.GONE, matrix.LOCKED):
        with DATABASE_FAULTS[cell.fault](place):
            yield
    else:
        yield from _of_process(cell, place.pids(cell.victim, one))


def _use_last_pages(place: Stage) -> None:
    """Have what still fits into the last page of each audit file written: records are smaller than pages."""
    for _ in range(16):
        if place.enter("true").returncode:
            return


def _of_process(cell: Cell, pids: list[int]) -> Iterator[None]:
    if cell.fault == matrix.KILL:
        processes.send(pids[:1], signal.SIGKILL)
        wait_for(lambda: not processes.is_alive(pids[0]), "the victim's end")
        yield
    elif cell.fault == matrix.PAUSE:
        with processes.stopped(pids), _later(lambda: processes.send(pids, signal.SIGCONT)):
            yield
    elif cell.fault == matrix.STOP:
        with processes.stopped(pids):
            yield
    elif cell.fault == matrix.NOFILE:
        with processes.without_descriptors(pids[0]):
            yield
    else:
        raise AssertionError(cell.fault)


def _cut(cell: Cell, place: Stage) -> Iterator[None]:
    assert isinstance(place.links, Links)
    links = {"user's link": [place.links.user], "node's link": [place.links.node]}[cell.victim]
    with ExitStack() as stack:
        for link in links:
            stack.enter_context(link.cut())
            if cell.fault == matrix.CUT_SHORTLY:
                stack.enter_context(_later(link.join))
        yield


@contextmanager
def _later(lift: Callable[[], None]) -> Iterator[None]:
    """Lift a fault after a while; the session goes on meanwhile."""
    timer = threading.Timer(PAUSE, lift)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@contextmanager
def _database_gone(place: Stage) -> Iterator[None]:
    """Take the database's files away, as a file system that is not mounted would."""
    directory = place.root / "db"
    aside = directory / "aside"
    aside.mkdir()
    moved = [file.name for file in directory.iterdir() if file != aside]
    for name in moved:
        (directory / name).rename(aside / name)
    try:
        yield
    finally:
        for name in moved:  # the very files: the controller may have them open
            (aside / name).replace(directory / name)
        aside.rmdir()


@contextmanager
def _database_locked(place: Stage) -> Iterator[None]:
    """Hold the database's write lock, as a backup program that hangs would."""
    connection = sqlite3.connect(place.root / "db" / "db.sqlite", timeout=DEADLINE, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


DATABASE_FAULTS = {matrix.GONE: _database_gone, matrix.LOCKED: _database_locked}
