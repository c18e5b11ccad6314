import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from arv_ssh.api.client import ApiClient
from arv_ssh.dispatch.dispatcher import Dispatcher
from arv_ssh.dispatch.processes import Processes
from arv_ssh.dispatch.runs import CannotRun, Life
from arv_ssh.errors import HttpError, NotFound, Unavailable, Unprocessable
from arv_ssh.processes import process_lock
from arv_ssh.processes.process_lock import ProcessLock
from tests.timing import wait_for

ME, OTHER = "zzzzz-gj3su-000000000000000", "zzzzz-gj3su-111111111111111"
A, B, C = (f"zzzzz-dz642-{letter * 15}" for letter in "abc")
RUN = "import signal; signal.pause()"
FAIL = "raise SystemExit(1)"
SUCCEED = ""


class Api:
    """Containers in memory; ``failure`` is raised by every call while it is set."""

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, Any]] = {}
        self.failure: HttpError | None = None
        self.refuse_lock: set[str] = set()

    def add(self, uuid: str, state: str, priority: int = 1, locked_by: str | None = None, lock_count: int = 0) -> None:
        self.containers[uuid] = {
            "uuid": uuid, "state": state, "priority": priority, "locked_by_uuid": locked_by,
            "lock_count": lock_count, "created_at": "2026-01-01T00:00:00Z", "runtime_status": {},
            "runtime_constraints": {},
        }  # fmt: skip

    def _check(self) -> None:
        if self.failure:
            raise self.failure

    def get(self, resource: str, uuid: str, *, select: list[str] | None = None) -> dict[str, Any]:
        self._check()
        if resource == "api_client_authorizations":
            return {"uuid": ME}
        if uuid not in self.containers:
            raise NotFound("no such container")
        return self.containers[uuid]

    def list_all(self, _resource: str, *, filters: list[list[Any]], select: list[str]) -> list[dict[str, Any]]:
        self._check()
        assert filters == [["state", "in", ["Queued", "Locked", "Running"]]]
        return [dict(c) for c in self.containers.values() if c["state"] in ("Queued", "Locked", "Running")]

    def update(self, _resource: str, uuid: str, attributes: dict[str, Any]) -> dict[str, Any]:
        self.containers[uuid].update(attributes)
        return self.containers[uuid]

    def lock(self, uuid: str) -> dict[str, Any]:
        if uuid in self.refuse_lock:
            raise Unprocessable("it is locked by another dispatcher")
        record = self.containers[uuid]
        record.update(state="Locked", locked_by_uuid=ME, lock_count=record["lock_count"] + 1)
        return record

    def unlock(self, uuid: str) -> dict[str, Any]:
        self.containers[uuid].update(state="Queued", locked_by_uuid=None)
        return self.containers[uuid]

    def container_auth(self, uuid: str) -> dict[str, Any]:
        return {"uuid": OTHER, "api_token": f"secret-of-{uuid}"}

    def states(self) -> dict[str, str]:
        return {uuid: record["state"] for uuid, record in self.containers.items()}


class Runner:
    """Starts small programs in place of crunch-run, which hold the lock as it does."""

    def __init__(self) -> None:
        self.program = RUN
        self.clean_up_program = SUCCEED
        self.calls: list[tuple[str, str, str]] = []
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.all_children: list[subprocess.Popen[bytes]] = []

    def start(self, lock: ProcessLock, uuid: str, token: str) -> subprocess.Popen[bytes]:
        self.calls.append(("start", uuid, token))
        return self._spawn(lock, uuid, self.program)

    def clean_up(self, lock: ProcessLock, uuid: str) -> subprocess.Popen[bytes]:
        self.calls.append(("clean up", uuid, ""))
        return self._spawn(lock, uuid, self.clean_up_program)

    def _spawn(self, lock: ProcessLock, uuid: str, program: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen([sys.executable, "-S", "-c", program], pass_fds=(lock.descriptor,))
        lock.hand_over(child.pid)
        self.children[uuid] = child
        self.all_children.append(child)
        return child

    def did(self) -> list[tuple[str, str]]:
        """Return the calls so far, without tokens, and forget them."""
        calls, self.calls = [call[:2] for call in self.calls], []
        return calls


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def runner() -> Iterator[Runner]:
    result = Runner()
    yield result
    for child in result.all_children:
        child.kill()
        child.wait(10)


@pytest.fixture
def restart(api: Api, runner: Runner, tmp_path: Path) -> Callable[[], Dispatcher]:
    """Return a function that makes a dispatcher which knows nothing but its state directory."""
    return lambda: Dispatcher(cast(ApiClient, api), Processes(runner, tmp_path), max_attempts=3)


@pytest.fixture
def dispatcher(restart: Callable[[], Dispatcher]) -> Dispatcher:
    return restart()


def kill(runner: Runner, uuid: str) -> None:
    runner.children[uuid].kill()
    runner.children[uuid].wait(10)


def test_queued_containers_start_by_priority(api: Api, runner: Runner, dispatcher: Dispatcher) -> None:
    """Queued containers are locked and started, the highest priority first, each with its own token."""
    api.add(A, "Queued", 1)
    api.add(B, "Queued", 900)
    api.add(C, "Queued", 5)
    dispatcher.poll()
    assert runner.calls == [("start", uuid, f"v2/{OTHER}/secret-of-{uuid}") for uuid in (B, C, A)]
    assert set(api.states().values()) == {"Locked"}


def test_priority_0_is_not_started(api: Api, runner: Runner, dispatcher: Dispatcher) -> None:
    """Priority 0 means that nobody wants the container any more."""
    api.add(A, "Queued", 0)
    dispatcher.poll()
    assert runner.did() == []


def test_a_lock_that_is_refused_holds_up_nothing(
    api: Api, runner: Runner, dispatcher: Dispatcher, tmp_path: Path
) -> None:
    """When another dispatcher was faster, the next container is started and nothing stays behind."""
    api.add(A, "Queued", 2)
    api.add(B, "Queued", 1)
    api.refuse_lock = {A}
    dispatcher.poll()
    assert runner.did() == [("start", B)]
    assert [path.stem for path in tmp_path.iterdir()] == [B]


def test_nothing_is_doubled_by_a_restart(api: Api, runner: Runner, restart: Callable[[], Dispatcher]) -> None:
    """A new dispatcher leaves alone what the one before it started, Locked or Running."""
    api.add(A, "Queued")
    api.add(B, "Queued")
    restart().poll()
    api.containers[A]["state"] = "Running"
    runner.did()
    restart().poll()
    assert runner.did() == []
    assert api.states() == {A: "Running", B: "Locked"}


def test_a_running_container_without_crunch_run_is_cancelled(
    api: Api, runner: Runner, dispatcher: Dispatcher, tmp_path: Path
) -> None:
    """When crunch-run dies, its Running container becomes Cancelled with a reason, and is cleaned up."""
    api.add(A, "Queued")
    dispatcher.poll()
    api.containers[A]["state"] = "Running"
    kill(runner, A)
    runner.did()
    dispatcher.poll()
    assert api.states() == {A: "Cancelled"}
    assert "crunch-run ended unexpectedly" in api.containers[A]["runtime_status"]["error"]
    assert runner.did() == [("clean up", A)]
    runner.children[A].wait(10)
    dispatcher.poll()
    assert list(tmp_path.iterdir()) == []


def test_a_lost_state_directory(api: Api, runner: Runner, dispatcher: Dispatcher) -> None:
    """A container that runs by the record, with no lock file at all, is cancelled and cleaned up too."""
    api.add(A, "Running", locked_by=ME)
    dispatcher.poll()
    assert (api.states(), runner.did()) == ({A: "Cancelled"}, [("clean up", A)])


def test_another_dispatchers_container_is_left_alone(api: Api, runner: Runner, dispatcher: Dispatcher) -> None:
    """What is locked with another token is none of our business."""
    api.add(A, "Running", locked_by=OTHER)
    api.add(B, "Locked", locked_by=OTHER)
    dispatcher.poll()
    assert (api.states(), runner.did()) == ({A: "Running", B: "Locked"}, [])


def test_locked_is_requeued_and_given_up_at_last(api: Api, runner: Runner, dispatcher: Dispatcher) -> None:
    """A crunch-run that dies before Running is started again, up to the limit; then the container is Cancelled."""
    runner.program = FAIL
    api.add(A, "Queued")
    for _ in range(3):
        dispatcher.poll()
        assert runner.did() == [("start", A)]
        runner.children[A].wait(10)
        assert api.states() == {A: "Locked"}
        dispatcher.poll()
    assert api.states() == {A: "Cancelled"}
    assert "3 times" in api.containers[A]["runtime_status"]["error"]
    assert runner.did() == [("clean up", A)]


@pytest.mark.parametrize("change", [{"priority": 0}, {"state": "Cancelled"}])
def test_cancelling_ends_crunch_run(api: Api, runner: Runner, dispatcher: Dispatcher, change: dict[str, Any]) -> None:
    """Priority 0, or Cancelled by somebody else, makes the dispatcher end the crunch-run; once."""
    api.add(A, "Queued")
    dispatcher.poll()
    api.containers[A].update({"state": "Running"} | change)
    dispatcher.poll()
    assert runner.children[A].wait(10) == -15


def test_a_complete_containers_crunch_run_leaves_in_peace(api: Api, runner: Runner, dispatcher: Dispatcher) -> None:
    """A crunch-run that recorded Complete and is still leaving gets no signal."""
    api.add(A, "Queued")
    dispatcher.poll()
    api.containers[A]["state"] = "Complete"
    dispatcher.poll()
    dispatcher.poll()
    assert runner.children[A].poll() is None


def test_a_clean_up_that_fails_is_tried_again_later(
    api: Api, runner: Runner, dispatcher: Dispatcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the Docker engine is away the leftovers stay known, and the clean-up is repeated with pauses."""
    runner.clean_up_program = FAIL
    api.add(A, "Running", locked_by=ME)
    dispatcher.poll()
    runner.children[A].wait(10)
    dispatcher.poll()
    assert runner.did() == [("clean up", A)]
    monkeypatch.setattr("arv_ssh.dispatch.processes.CLEAN_UP_AGAIN", 0.0)
    runner.clean_up_program = SUCCEED
    dispatcher.poll()
    assert runner.did() == [("clean up", A)]
    runner.children[A].wait(10)
    dispatcher.poll()
    assert list(tmp_path.iterdir()) == []


def test_an_outage_loses_nothing(api: Api, runner: Runner, dispatcher: Dispatcher, tmp_path: Path) -> None:
    """While the API is away a poll raises, the crunch-runs go on, and afterwards everything is as before."""
    api.add(A, "Queued")
    dispatcher.poll()
    api.failure = Unavailable("the API host cannot be reached")
    with pytest.raises(Unavailable):
        dispatcher.poll()
    api.failure = None
    dispatcher.poll()
    assert runner.did() == [("start", A)]
    assert process_lock.is_held(tmp_path / f"{A}.lock")


def test_what_is_in_use(api: Api, runner: Runner, dispatcher: Dispatcher) -> None:
    """After a poll it says which containers are not over yet, by the API or by a crunch-run that still lives."""
    assert dispatcher.in_use == frozenset()
    api.add(A, "Queued", 1)
    api.add(B, "Queued", 0)
    dispatcher.poll()
    assert dispatcher.in_use == {A, B}
    api.containers[A]["state"] = "Complete"
    dispatcher.poll()
    assert dispatcher.in_use == {A, B}
    runner.program = SUCCEED
    kill(runner, A)
    api.containers[B]["state"] = "Cancelled"

    def poll() -> bool:
        dispatcher.poll()
        return not dispatcher.in_use

    wait_for(poll, "the end of everything")


class Place:
    """A place where containers run, which says of each container what a test wants."""

    fields: tuple[str, ...] = ("runtime_constraints",)

    def __init__(self) -> None:
        self.lives: dict[str, Life] = {}
        self.refusal = ""
        self.hope = ""
        self.did: list[tuple[str, str]] = []
        self.order: list[str] = []

    def look(self) -> None: ...

    def known(self) -> set[str]:
        return set(self.lives)

    def life(self, uuid: str) -> Life:
        return self.lives.get(uuid, Life.GONE)

    def start(self, record: dict[str, Any], take: Callable[[], str]) -> bool:
        assert "runtime_constraints" in record
        if self.refusal:
            raise CannotRun(self.refusal)
        self.did.append(("start", take()))
        return True

    def end(self, uuid: str, *, kill: bool) -> bool:
        self.did.append(("kill" if kill else "end", uuid))
        return True

    def clean_up(self, uuid: str) -> None:
        self.did.append(("clean up", uuid))

    def why_gone(self, uuid: str) -> str:
        return "its node failed"

    def log_place(self, uuid: str) -> str:
        return "the log directory"

    def hopeless(self, uuid: str) -> str:
        return self.hope

    def arrange(self, uuids: Sequence[str]) -> None:
        self.order = list(uuids)


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def elsewhere(api: Api, place: Place) -> Dispatcher:
    return Dispatcher(cast(ApiClient, api), place, max_attempts=3)


def test_what_can_never_run_is_cancelled(api: Api, place: Place, elsewhere: Dispatcher) -> None:
    """A container that fits nowhere is Cancelled at once, with the reason."""
    api.add(A, "Queued")
    place.refusal = "it asks for 64 vcpus"
    elsewhere.poll()
    assert (api.states(), api.containers[A]["runtime_status"]) == ({A: "Cancelled"}, {"error": "it asks for 64 vcpus"})


def test_what_was_not_submitted_keeps_its_lock(api: Api, place: Place, elsewhere: Dispatcher) -> None:
    """A locked container that certainly was not started is started again, and no attempt is counted."""
    api.add(A, "Locked", locked_by=ME, lock_count=1)
    place.lives[A] = Life.UNSUBMITTED
    elsewhere.poll()
    assert place.did == [("start", f"v2/{OTHER}/secret-of-{A}")]
    assert (api.states(), api.containers[A]["lock_count"]) == ({A: "Locked"}, 1)


def test_what_is_unknown_is_left_alone(api: Api, place: Place, elsewhere: Dispatcher) -> None:
    """Nothing is decided about a container that another dispatcher may be submitting."""
    api.add(A, "Locked", locked_by=ME)
    api.add(B, "Running", locked_by=ME)
    place.lives |= {A: Life.UNKNOWN, B: Life.UNKNOWN}
    elsewhere.poll()
    assert (api.states(), place.did) == ({A: "Locked", B: "Running"}, [])


def test_a_hopeless_wait_is_ended(api: Api, place: Place, elsewhere: Dispatcher) -> None:
    """A container that waits for what will never be is Cancelled, and what waits for it is ended."""
    api.add(A, "Locked", locked_by=ME)
    place.lives[A], place.hope = Life.ALIVE, "it cannot run"
    elsewhere.poll()
    assert (api.states(), place.did) == ({A: "Cancelled"}, [("end", A)])


@pytest.mark.parametrize(("priority", "error"), [(1, True), (0, False)])
def test_a_gone_one_that_ran(api: Api, place: Place, elsewhere: Dispatcher, priority: int, error: bool) -> None:
    """It is Cancelled with the reason and the log's place; without one where its users cancelled it."""
    api.add(A, "Running", priority, locked_by=ME)
    elsewhere.poll()
    reason = "its node failed while the container was running; its log is crunch-run.txt in the log directory"
    assert (api.states(), api.containers[A]["runtime_status"]) == ({A: "Cancelled"}, {"error": reason} if error else {})
    assert place.did == [("clean up", A)]


def test_the_last_attempts_reason(api: Api, place: Place, elsewhere: Dispatcher) -> None:
    """A container that was started too often is Cancelled with the reason of the last time."""
    api.add(A, "Locked", locked_by=ME, lock_count=3)
    elsewhere.poll()
    assert "ended 3 times before the container was running, the last time because its node failed" in (
        api.containers[A]["runtime_status"]["error"]
    )


def test_those_that_wait_are_arranged(api: Api, place: Place, elsewhere: Dispatcher) -> None:
    """What waits is brought into the order of priorities, what was cancelled is not."""
    api.add(A, "Locked", 5, locked_by=ME)
    api.add(B, "Locked", 900, locked_by=ME)
    api.add(C, "Locked", 0, locked_by=ME)
    place.lives |= dict.fromkeys((A, B, C), Life.ALIVE)
    elsewhere.poll()
    assert place.order == [B, A]


def test_a_long_queue_does_not_hold_up_the_rest(
    api: Api, place: Place, elsewhere: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting ends after its share of a poll, which says that more wait."""
    monkeypatch.setattr("arv_ssh.dispatch.dispatcher.STARTING", -1.0)
    api.add(A, "Queued")
    assert elsewhere.poll()
    assert place.did == []
    monkeypatch.setattr("arv_ssh.dispatch.dispatcher.STARTING", 60.0)
    assert not elsewhere.poll()
    assert len(place.did) == 1
