from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from arv_ssh.config.slurm_options import SlurmOptions
from arv_ssh.dispatch.crunch_run import CrunchRun
from arv_ssh.dispatch.runs import CannotRun, Life
from arv_ssh.dispatch.slurm import jobs as jobs_module
from arv_ssh.dispatch.slurm.attempts import StateDirectory
from arv_ssh.dispatch.slurm.commands import Job, Node, NotSubmitted, Refused, Slurm
from arv_ssh.dispatch.slurm.jobs import Jobs
from arv_ssh.errors import ArvSshError, Unavailable

UUID = "zzzzz-dz642-abcdeabcdeabcde"
RECORD: dict[str, Any] = {"uuid": UUID, "runtime_constraints": {"vcpus": 1, "ram": 1}}


class FakeSlurm:
    """A Slurm in memory. ``failure`` is raised by the next submission; ``silent`` takes the job and says nothing."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.submitted: list[tuple[list[str], str]] = []
        self.told: list[tuple[str, int]] = []
        self.failure: ArvSshError | None = None
        self.silent = False
        self.accounting: tuple[str, str] | None = None
        self.left_out: set[int] = set()
        self.asked: list[tuple[str, ...]] = []

    def queue(self) -> list[Job]:
        return [job for job in self.jobs if job.id not in self.left_out]

    def known(self, jobs: Sequence[int]) -> set[int]:
        return {job.id for job in self.jobs}.intersection(jobs)

    def nodes(self, partitions: Sequence[str]) -> list[Node]:
        self.asked.append(tuple(partitions))
        return [Node(2, 4000, 0)]

    def submit(self, arguments: Sequence[str], script: str) -> int:
        if self.failure is not None:
            raise self.failure
        self.submitted.append((list(arguments), script))
        name = next(word.removeprefix("--job-name=") for word in arguments if word.startswith("--job-name="))
        nice = next((int(word.removeprefix("--nice=")) for word in arguments if word.startswith("--nice=")), 0)
        number = len(self.submitted)
        self.jobs.append(Job(number, 1_000_000 - number - nice, nice, "PENDING", "", "main", name, "Priority"))
        if self.silent:
            raise Unavailable("sbatch did not answer")
        return number

    def ended(self, _job: int) -> tuple[str, str] | None:
        return self.accounting

    def cancel(self, job: int) -> bool:
        self.told.append(("cancel", job))
        return True

    def terminate(self, job: int) -> bool:
        self.told.append(("terminate", job))
        return True

    def set_nice(self, job: int, nice: int) -> bool:
        self.told.append((f"nice {nice}", job))
        return True

    def turn(self, state: str, node: str = "n1", name: str = UUID) -> None:
        """Bring the jobs called ``name`` into ``state``."""
        self.jobs = [replace(job, state=state, node=node) if job.name == name else job for job in self.jobs]


@pytest.fixture
def slurm() -> FakeSlurm:
    return FakeSlurm()


@pytest.fixture
def restart(slurm: FakeSlurm, tmp_path: Path) -> Callable[[], Jobs]:
    """Return a function that makes one that knows nothing but the queue and its state directory."""
    start = CrunchRun(
        program=Path("crunch-run"), system_root_token="root", api_host="api:1", api_insecure=False, log_dir=Path("/log")
    )

    def made() -> Jobs:
        result = Jobs(cast(Slurm, slurm), SlurmOptions(), start, StateDirectory(tmp_path), "zzzzz")
        result.look()
        return result

    return made


@pytest.fixture
def jobs(restart: Callable[[], Jobs]) -> Jobs:
    return restart()


def test_a_job_from_start_to_end(slurm: FakeSlurm, jobs: Jobs, tmp_path: Path) -> None:
    """A job is submitted with all that crunch-run needs, lives while Slurm has it, and is forgotten when it is over."""
    assert jobs.start(RECORD, lambda: "v2/a/token")
    ((arguments, script),) = slurm.submitted
    assert {"--cpus-per-task=1", "--mem=1M", f"--job-name={UUID}", "--nice=10000", "--no-requeue"} <= set(arguments)
    assert "v2/a/token" in script and not any("token" in word for word in arguments)
    assert jobs.life(UUID) is Life.ALIVE
    slurm.turn("RUNNING")
    jobs.look()
    assert jobs.life(UUID) is Life.ALIVE and not jobs.start(RECORD, lambda: "again")
    slurm.turn("COMPLETED")
    jobs.look()
    assert jobs.life(UUID) is Life.GONE
    jobs.clean_up(UUID)
    assert list(tmp_path.iterdir()) == [] and jobs.known() == set()


def test_a_dead_job_is_cleaned_up_on_its_node(slurm: FakeSlurm, jobs: Jobs, restart: Callable[[], Jobs]) -> None:
    """What a failed job left is removed by a job on the same node, by a restarted dispatcher too, until that worked."""
    jobs.start(RECORD, lambda: "t")
    slurm.turn("NODE_FAIL", "n2")
    jobs.look()
    assert jobs.why_gone(UUID) == "Slurm ended job 1 on node n2: its node failed (NODE_FAIL)"
    jobs.clean_up(UUID)
    jobs = restart()
    arguments, script = slurm.submitted[1]
    assert {"--nodelist=n2", f"--job-name={UUID}-clean-up", "--partition=main"} <= set(arguments)
    assert f"--clean-up {UUID}" in script
    slurm.turn("FAILED", "n2", f"{UUID}-clean-up")
    restart()
    assert len(slurm.submitted) == 3
    slurm.turn("COMPLETED", "n2", f"{UUID}-clean-up")
    restart().look()
    assert len(slurm.submitted) == 3


def test_the_inventory_is_good_for_a_while(
    slurm: FakeSlurm, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sinfo is asked once a minute for each list of partitions, and no list is kept for longer."""
    lists = [["a"], ["b"], ["a"]]
    for index, partitions in enumerate(lists):
        uuid = f"zzzzz-dz642-{index:015}"
        jobs.start(RECORD | {"uuid": uuid, "scheduling_parameters": {"partitions": partitions}}, lambda: "t")
    assert slurm.asked == [("a",), ("b",)]
    monkeypatch.setattr(jobs_module, "INVENTORY", -1.0)
    jobs.start(RECORD, lambda: "t")
    assert slurm.asked[2:] == [()] and list(jobs._inventories) == [()]


def test_no_clean_up_beside_a_living_job(slurm: FakeSlurm, jobs: Jobs) -> None:
    """A container that is tried again is not removed by the clean-up after its first attempt."""
    jobs.start(RECORD, lambda: "t")
    slurm.turn("NODE_FAIL", "n2")
    jobs.look()
    jobs.start(RECORD, lambda: "t")
    jobs.look()
    assert [words for words, _ in slurm.submitted if f"--job-name={UUID}-clean-up" in words] == []


def test_a_silent_sbatch(slurm: FakeSlurm, jobs: Jobs, restart: Callable[[], Jobs]) -> None:
    """A job that sbatch did not tell about is found by its name, by a restarted dispatcher too."""
    slurm.silent = True
    with pytest.raises(Unavailable):
        jobs.start(RECORD, lambda: "t")
    jobs = restart()
    assert jobs.life(UUID) is Life.ALIVE
    slurm.turn("TIMEOUT")
    jobs.look()
    assert "it reached its time limit" in jobs.why_gone(UUID)


def test_a_job_that_never_shows_up(
    slurm: FakeSlurm, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submission without an answer is waited for, and then given up."""
    slurm.failure = Unavailable("sbatch did not answer")
    with pytest.raises(Unavailable):
        jobs.start(RECORD, lambda: "t")
    assert jobs.life(UUID) is Life.UNKNOWN
    monkeypatch.setattr(jobs_module, "LATE", 0.0)
    assert jobs.life(UUID) is Life.GONE
    assert jobs.why_gone(UUID) == "Slurm never got its job"


def test_what_was_certainly_not_submitted(slurm: FakeSlurm, jobs: Jobs) -> None:
    """It can be submitted again with the same lock."""
    slurm.failure = NotSubmitted("no contact")
    with pytest.raises(Unavailable):
        jobs.start(RECORD, lambda: "t")
    assert jobs.life(UUID) is Life.UNSUBMITTED
    slurm.failure = None
    assert jobs.start(RECORD, lambda: "t")
    assert jobs.life(UUID) is Life.ALIVE


@pytest.mark.parametrize("failure", [NotSubmitted("munge"), Refused("a limit")], ids=["unsubmitted", "refused"])
def test_what_was_submitted_all_the_same(slurm: FakeSlurm, jobs: Jobs, failure: ArvSshError) -> None:
    """A job that is in the queue was submitted, whatever sbatch made of Slurm's answer."""
    slurm.failure = failure
    with suppress(Unavailable):
        jobs.start(RECORD, lambda: "t")
    slurm.jobs.append(Job(7, 1, 0, "RUNNING", "n1", "main", UUID, "None"))
    jobs.look()
    assert jobs.life(UUID) is Life.ALIVE
    slurm.turn("TIMEOUT")
    jobs.look()
    assert jobs.life(UUID) is Life.GONE
    assert jobs.why_gone(UUID) == "Slurm ended job 7 on node n1: it reached its time limit (TIMEOUT)"


def test_refusals(slurm: FakeSlurm, jobs: Jobs) -> None:
    """A refusal that may pass counts as an attempt; one for good is the container's end."""
    slurm.failure = Refused("Slurm refused its job: a limit")
    jobs.start(RECORD, lambda: "t")
    assert (jobs.life(UUID), jobs.why_gone(UUID)) == (Life.GONE, "Slurm refused its job: a limit")
    slurm.failure = CannotRun("Invalid account")
    with pytest.raises(CannotRun, match="Slurm cannot run it: Invalid account"):
        jobs.start(RECORD, lambda: "t")


def test_another_dispatchers_container(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container of which nothing is known may be just being submitted by another dispatcher; not for ever."""
    assert jobs.life(UUID) is Life.UNKNOWN
    monkeypatch.setattr(jobs_module, "FOREIGN", 0.0)
    assert jobs.life(UUID) is Life.GONE


def test_ending(slurm: FakeSlurm, jobs: Jobs) -> None:
    """A waiting job is cancelled, a running one is asked, and killed when it must be."""
    jobs.start(RECORD, lambda: "t")
    assert jobs.end(UUID, kill=False)
    slurm.turn("RUNNING")
    jobs.look()
    assert jobs.end(UUID, kill=False) and jobs.end(UUID, kill=True)
    assert slurm.told == [("cancel", 1), ("terminate", 1), ("cancel", 1)]


def test_why_gone_from_accounting(slurm: FakeSlurm, jobs: Jobs) -> None:
    """A job that squeue has forgotten is looked up in accounting."""
    jobs.start(RECORD, lambda: "t")
    slurm.jobs, slurm.accounting = [], ("CANCELLED by 1000", "n3")
    jobs.look()
    assert jobs.why_gone(UUID) == (
        "Slurm ended job 1 on node n3: somebody cancelled it in Slurm (CANCELLED by 1000)"
    )


def test_arranging(slurm: FakeSlurm, jobs: Jobs) -> None:
    """Waiting jobs get the nice values that bring them into order."""
    uuids = [f"zzzzz-dz642-{letter * 15}" for letter in "abc"]
    for uuid in uuids:
        jobs.start(RECORD | {"uuid": uuid}, lambda: "t")
    jobs.look()
    jobs.arrange(uuids)
    assert slurm.told == []
    jobs.arrange([uuids[2], uuids[0], uuids[1]])
    assert [job for _, job in slurm.told] == [3]


def test_an_answer_cut_short(slurm: FakeSlurm, jobs: Jobs) -> None:
    """A job that only squeue's answer lacks is not over: nothing is decided until it is there again."""
    jobs.start(RECORD, lambda: "t")
    slurm.left_out = {1}
    with pytest.raises(Unavailable, match="squeue left out 1 jobs that Slurm has, such as 1"):
        jobs.look()
    slurm.left_out = set()
    jobs.look()
    assert jobs.life(UUID) is Life.ALIVE


def test_another_name(slurm: FakeSlurm, jobs: Jobs) -> None:
    """A job that an administrator gave another name is followed by its number."""
    jobs.start(RECORD, lambda: "t")
    slurm.jobs = [replace(job, name="mine", state="RUNNING") for job in slurm.jobs]
    jobs.look()
    assert (jobs.life(UUID), jobs.known()) == (Life.ALIVE, {UUID})


@pytest.mark.parametrize(
    "name", ["zzzzz-dz642-x", "zzzzz-dz642-../../users/x", f"{UUID}0", f"{UUID}-clean-up-clean-up"]
)
def test_names_that_are_no_containers(slurm: FakeSlurm, jobs: Jobs, name: str) -> None:
    """A job is not the dispatcher's because its name begins as a container's UUID."""
    slurm.jobs.append(Job(1, 1, 0, "RUNNING", "n1", "main", name, "None"))
    jobs.look()
    assert jobs.known() == set()


def failed_on(slurm: FakeSlurm, jobs: Jobs, node: str) -> None:
    """Submit a job, and have it die on a node before its container runs."""
    jobs.start(RECORD, lambda: "t")
    slurm.turn("NODE_FAIL", node)
    jobs.look()


def test_a_retry_ends_waiting_clean_ups(slurm: FakeSlurm, jobs: Jobs) -> None:
    """A clean-up that waits for its node would remove what the next attempt makes there; it comes after that one."""
    failed_on(slurm, jobs, "n2")
    jobs.clean_up(UUID)
    jobs.look()
    assert f"--job-name={UUID}-clean-up" in slurm.submitted[1][0]
    assert jobs.start(RECORD, lambda: "t")
    assert slurm.told == [("cancel", 2)]
    slurm.turn("CANCELLED", "", f"{UUID}-clean-up")
    jobs.look()
    assert len(slurm.submitted) == 3
    slurm.turn("COMPLETED", "n1")
    jobs._cleaned.clear()  # a minute later
    jobs.look()
    assert {"--nodelist=n2", f"--job-name={UUID}-clean-up"} <= set(slurm.submitted[3][0])


def test_a_retry_waits_for_a_running_clean_up(slurm: FakeSlurm, jobs: Jobs) -> None:
    """While one runs nothing is submitted."""
    failed_on(slurm, jobs, "n2")
    jobs.clean_up(UUID)
    jobs.look()
    slurm.turn("RUNNING", "n2", f"{UUID}-clean-up")
    jobs.look()
    assert not jobs.start(RECORD, lambda: "t") and slurm.told == []
    slurm.turn("COMPLETED", "n2", f"{UUID}-clean-up")
    jobs.look()
    assert jobs.start(RECORD, lambda: "t")


def test_clean_ups_of_two_nodes(slurm: FakeSlurm, jobs: Jobs) -> None:
    """A clean-up that waits for a node that is down does not hold up the one of another node."""
    failed_on(slurm, jobs, "n1")
    failed_on(slurm, jobs, "n2")
    jobs.clean_up(UUID)
    jobs.look()
    jobs.look()
    clean_ups = [words for words, _ in slurm.submitted if f"--job-name={UUID}-clean-up" in words]
    assert [word for words in clean_ups for word in words if word.startswith("--nodelist")] == [
        "--nodelist=n1", "--nodelist=n2",
    ]  # fmt: skip


def test_priorities_that_are_too_small(slurm: FakeSlurm, jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    """Where Slurm's own weights leave no room for nice values, the log says so once."""
    uuids = [f"zzzzz-dz642-{letter * 15}" for letter in "ab"]
    for uuid in uuids:
        jobs.start(RECORD | {"uuid": uuid}, lambda: "t")
    slurm.jobs = [replace(job, priority=1) for job in slurm.jobs]
    jobs.look()
    for _ in range(2):
        jobs.arrange(uuids)
    assert [record.message for record in caplog.records if "waiting jobs have no order" in record.message] != []
    assert sum("waiting jobs have no order" in record.message for record in caplog.records) == 1
