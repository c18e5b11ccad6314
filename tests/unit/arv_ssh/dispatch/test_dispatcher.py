import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from arv_ssh.api.client import ApiClient
from arv_ssh.dispatch.dispatcher import Dispatcher
from arv_ssh.dispatch.processes import Processes
from arv_ssh.errors import HttpError, NotFound, Unavailable, Unprocessable
from arv_ssh.processes import process_lock
from arv_ssh.processes.process_lock import ProcessLock

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
