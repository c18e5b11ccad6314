"""The dispatcher is killed before and after each thing that it does, and starts again: nothing is lost or doubled."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from arv_ssh.api.client import ApiClient
from arv_ssh.config.slurm_options import SlurmOptions
from arv_ssh.dispatch.crunch_run import CrunchRun
from arv_ssh.dispatch.dispatcher import Dispatcher
from arv_ssh.dispatch.slurm import jobs as jobs_module
from arv_ssh.dispatch.slurm.attempts import StateDirectory
from arv_ssh.dispatch.slurm.commands import Job, Node, Slurm
from arv_ssh.dispatch.slurm.jobs import Jobs
from arv_ssh.errors import ArvSshError
from tests.unit.arv_ssh.embedded.cluster import ROOT_TOKEN, Cluster, sqlite_url

ROUNDS = 12
STEPS = {
    "api": ("lock", "unlock", "container_auth", "update"),
    "slurm": ("submit", "cancel", "terminate"),
    "state": ("keep", "forget", "keep_clean_up", "forget_clean_up"),
}


class Killed(BaseException):
    """SIGKILL."""


@dataclass
class Steps:
    """Counts what the dispatcher does, and kills it once, at number ``fatal``."""

    fatal: int
    count: int = 0

    def watch(self, thing: Any, names: Sequence[str]) -> None:
        for name in names:
            setattr(thing, name, self._watched(getattr(thing, name)))

    def _watched(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            self._pass()
            answer = step(*arguments, **named)
            self._pass()
            return answer

        return watched

    def _pass(self) -> None:
        self.count += 1
        if self.count == self.fatal:
            raise Killed


@dataclass
class PlannedSlurm:
    """A Slurm whose jobs do, one after the other, what ``plan`` says; the last word holds for all further ones."""

    client: Callable[[str], ApiClient]
    plan: list[str]
    jobs: dict[int, Job] = field(default_factory=dict)
    scripts: dict[int, str] = field(default_factory=dict)
    running: dict[int, str] = field(default_factory=dict)
    ran: int = 0
    left: set[str] = field(default_factory=set)

    def queue(self) -> list[Job]:
        return list(self.jobs.values())

    def known(self, jobs: Sequence[int]) -> set[int]:
        return set(self.jobs).intersection(jobs)

    def nodes(self, _partitions: Sequence[str]) -> list[Node]:
        return [Node(2, 4000, 0)]

    def submit(self, arguments: Sequence[str], script: str) -> int:
        options = dict(word.split("=", 1) for word in arguments if "=" in word)
        number = len(self.jobs) + 1
        self.jobs[number] = Job(number, 1, 0, "PENDING", "", "main", options["--job-name"], "Priority")
        self.scripts[number] = script
        return number

    def cancel(self, number: int) -> bool:
        self._turn(number, "CANCELLED", self.jobs[number].node)
        return True

    terminate = cancel

    def set_nice(self, _number: int, _nice: int) -> bool:
        return True

    def ended(self, _number: int) -> None:
        return None

    def _turn(self, number: int, state: str, node: str) -> None:
        self.jobs[number] = replace(self.jobs[number], state=state, node=node)

    def pass_time(self) -> None:
        """Have each job do its next thing."""
        for job in [job for job in self.jobs.values() if job.is_live]:
            if job.name.endswith("-clean-up"):
                assert not self.running, "a clean-up ran beside a living job"
                self.left.clear()
                self._turn(job.id, "COMPLETED", "n1")
            elif job.is_waiting:
                self._begin(job)
            else:
                self._end(job)

    def _begin(self, job: Job) -> None:
        what = self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]
        if what == "wait":
            return
        if what == "fail before":
            self.left.add(job.name)
            self._turn(job.id, "NODE_FAIL", "n1")
            return
        try:
            self._as_container(job).update("containers", job.name, {"state": "Running"})
        except ArvSshError:  # its lock is gone: crunch-run ends
            self._turn(job.id, "FAILED", "n1")
            return
        self.ran += 1
        self.left.add(job.name)
        self.running[job.id] = what
        self._turn(job.id, "RUNNING", "n1")

    def _end(self, job: Job) -> None:
        if self.running.pop(job.id) == "fail":
            self._turn(job.id, "NODE_FAIL", "n1")
            return
        self._as_container(job).update("containers", job.name, {"state": "Complete", "exit_code": 0})
        self.left.clear()
        self._turn(job.id, "COMPLETED", "n1")

    def _as_container(self, job: Job) -> ApiClient:
        found = re.search(r"ARVADOS_API_TOKEN=(\S+)", self.scripts[job.id])
        assert found
        return self.client(found.group(1))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    return Cluster(sqlite_url(tmp_path_factory.mktemp("database")))


def dispatcher(cluster: Cluster, slurm: PlannedSlurm, directory: Path, steps: Steps) -> Dispatcher:
    """Return one that knows nothing but Slurm, the API and its directory."""
    api, state = cluster.client(ROOT_TOKEN), StateDirectory(directory)
    for thing, names in ((api, STEPS["api"]), (slurm_of := replace(slurm), STEPS["slurm"]), (state, STEPS["state"])):
        steps.watch(thing, names)
    start = CrunchRun(Path("crunch-run"), ROOT_TOKEN, "api:1", False, Path("/log"))
    return Dispatcher(api, Jobs(cast(Slurm, slurm_of), SlurmOptions(), start, state, "zzzzz"), 5)


def outcome(cluster: Cluster, directory: Path, plan: list[str], fatal: int) -> tuple[Any, ...] | None:
    """Run one container, with a dispatcher that is killed at step ``fatal``; None when there is no such step."""
    steps, slurm = Steps(fatal), PlannedSlurm(cluster.client, list(plan))
    directory.mkdir()
    request = cluster.submit(cluster.root)
    uuid, one = request["container_uuid"], dispatcher(cluster, slurm, directory, steps)
    for round_ in range(ROUNDS):
        try:
            one.poll()
        except Killed:
            one = dispatcher(cluster, slurm, directory, steps)
        slurm.pass_time()
        if plan == ["wait"] and round_ == 3:
            cluster.root.update("container_requests", request["uuid"], {"priority": 0})
    record = cluster.root.get("containers", uuid)
    assert [job for job in slurm.jobs.values() if job.is_live] == [], "a job is left"
    assert list(directory.iterdir()) == [], "the dispatcher is not done"
    assert not slurm.left, "nobody cleaned up"
    with suppress(ArvSshError):
        cluster.root.update("container_requests", request["uuid"], {"priority": 0})
    done = (record["state"], record["priority"] > 0, slurm.ran, record["runtime_status"].get("error", ""))
    return done if steps.count >= fatal else None


@pytest.mark.parametrize(
    ("plan", "state", "ran", "error"),
    [
        (["run"], "Complete", 1, ""),
        (["fail before", "run"], "Complete", 1, ""),
        (["fail"], "Cancelled", 1, "on node n1: its node failed (NODE_FAIL) while the container was running"),
        (["wait"], "Queued", 0, ""),
    ],
    ids=["runs", "fails before it runs", "fails while it runs", "is cancelled"],
)  # fmt: skip
def test_killed_at_any_step(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: list[str], state: str, ran: int, error: str
) -> None:
    """Wherever it is killed, the container runs as often, and ends, as without that, and its node is clean."""
    for name in ("LATE", "FOREIGN", "CLEAN_UP_AGAIN"):
        monkeypatch.setattr(jobs_module, name, 0.0)
    fatal = 0
    while (done := outcome(cluster, tmp_path / str(fatal := fatal + 1), plan, fatal)) is not None:
        assert done[:3] == (state, state != "Queued", ran), f"killed at step {fatal}"
        assert error in done[3], f"killed at step {fatal}"
    assert fatal > 10
