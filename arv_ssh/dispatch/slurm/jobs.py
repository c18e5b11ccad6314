"""The crunch-runs of a cluster as jobs of Slurm: what lives, what is submitted, what has ended and why.

Owns the tie between a container and its jobs: the job's name is the container's UUID, a clean-up's the same with a
suffix. What is known survives any restart: Slurm's queue and the files of :mod:`arv_ssh.dispatch.slurm.attempts`. A
job that turns up after its attempt was given up does no harm: the container's token, which it needs, ended with the
lock. Decides nothing about a container.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from arv_ssh import log, uuids
from arv_ssh.config.slurm_options import SlurmOptions
from arv_ssh.dispatch.crunch_run import CrunchRun
from arv_ssh.dispatch.runs import CannotRun, Life
from arv_ssh.dispatch.slurm import arguments, order, script, sentences
from arv_ssh.dispatch.slurm.arguments import Needs
from arv_ssh.dispatch.slurm.attempts import Attempt, CleanUp, StateDirectory
from arv_ssh.dispatch.slurm.commands import Job, Node, NotSubmitted, Refused, Slurm
from arv_ssh.errors import ArvSshError, Unavailable
from arv_ssh.trust import credentials

logger = logging.getLogger(__name__)

LATE = 90.0
"""Seconds for a job to show up whose sbatch gave no answer: longer than Slurm's programs try."""
FOREIGN = 150.0
"""Seconds for which a container locked with our token, of which we know nothing, may be another dispatcher's that is
just submitting it."""
INVENTORY = 60.0
"""Seconds for which sinfo's answer is good."""
CLEAN_UP_AGAIN = 60.0
"""Seconds until a clean-up that failed is tried again."""
MOVES = 50
"""Jobs that get another place in one poll, a call of scontrol each."""
_SUFFIX = "-clean-up"
_CLEAN_UP_NEEDS = Needs("", vcpus=1, memory=128, disk=0, gpus=0, minutes=10, partitions=(), preemptible=False)
_FIXED = ("--no-requeue", "--output=/dev/null", "--error=/dev/null", "--input=/dev/null", "--chdir=/", "--export=ALL")
"""What a site cannot change: a job starts once, where it starts matters to nothing, and the script has its own log."""


@dataclass
class _Inventory:
    nodes: Sequence[Node]
    read: float


class Jobs:
    """The jobs of the cluster ``cluster_id``; ``start`` says how crunch-run is started by the cluster's config."""

    fields: tuple[str, ...] = ("runtime_constraints", "scheduling_parameters", "mounts")

    def __init__(
        self, slurm: Slurm, options: SlurmOptions, start: CrunchRun, state: StateDirectory, cluster_id: str
    ) -> None:
        self._slurm = slurm
        self._options = options
        self._crunch_run = start
        self._state = state
        self._prefix = f"{cluster_id}-dz642-"
        self._jobs: dict[str, list[Job]] = {}
        self._missing: dict[str, float] = {}
        self._inventories: dict[tuple[str, ...], _Inventory] = {}
        self._cleaned: dict[tuple[str, str], float] = {}
        self._has_warned = False

    # What lives.

    def look(self) -> None:
        """Read Slurm's queue, and go on with the clean-ups."""
        numbers = {attempt.job: uuid for uuid, attempt in self._state.attempts.items()}
        jobs: dict[str, list[Job]] = defaultdict(list)
        for job in self._slurm.queue():
            name = job.name if self._is_ours(job.name) else numbers.get(job.id, "")  # somebody may give it another name
            if name:
                jobs[name].append(job)
        self._jobs = jobs
        self._check_whole()
        for uuid, attempt in list(self._state.attempts.items()):
            self._update(uuid, attempt)
        for clean_up in list(self._state.clean_ups.values()):
            self._go_on(clean_up)

    def _is_ours(self, name: str) -> bool:
        return name.startswith(self._prefix) and uuids.is_container(name.removesuffix(_SUFFIX))

    def _check_whole(self) -> None:
        """Raise unless Slurm has forgotten what its queue lacks: an answer cut short must not end containers."""
        attempts = self._state.attempts.items()
        unseen = [attempt.job for uuid, attempt in attempts if attempt.job and not self._job_of(uuid, attempt)]
        if left_out := self._slurm.known(unseen):
            raise Unavailable(f"squeue left out {len(left_out)} jobs that Slurm has, such as {min(left_out)}")

    def _update(self, uuid: str, attempt: Attempt) -> None:
        """Write down what the queue says of an attempt: its job's number and node."""
        if attempt.job is None:
            newer = [job.id for job in self._jobs.get(uuid, ()) if job.id > attempt.after]
            if newer:  # whatever sbatch said
                attempt.job, attempt.unsubmitted, attempt.refused = max(newer), False, ""
                self._state.keep(uuid, attempt)
        job = self._job_of(uuid, attempt)
        if job and (job.node, job.partition) != (attempt.node, attempt.partition) and job.node:
            attempt.node, attempt.partition = job.node, job.partition
            self._state.keep(uuid, attempt)
            log.event(logger, "a job has begun", container_uuid=uuid, job=job.id, node=job.node)

    def _job_of(self, uuid: str, attempt: Attempt) -> Job | None:
        return next((job for job in self._jobs.get(uuid, ()) if job.id == attempt.job), None)

    def _add(self, job: Job) -> None:
        """Take account of a job that was submitted after the queue was read."""
        self._jobs.setdefault(job.name, []).append(job)

    def _live(self, name: str) -> list[Job]:
        return [job for job in self._jobs.get(name, ()) if job.is_live]

    def known(self) -> set[str]:
        """Return the containers with an attempt that is not settled, or a living job."""
        living = {name for name in self._jobs if not name.endswith(_SUFFIX) and self._live(name)}
        return living | set(self._state.attempts)

    def life(self, uuid: str) -> Life:
        """Say whether a container has a job that is not over."""
        attempt = self._state.attempts.get(uuid)
        if self._live(uuid):
            self._missing.pop(uuid, None)
            return Life.ALIVE
        if attempt is not None and (attempt.job is not None or attempt.refused):
            return Life.GONE
        if attempt is not None and attempt.unsubmitted:
            return Life.UNSUBMITTED
        since = self._missing.setdefault(uuid, time.monotonic())
        if time.monotonic() - since < (FOREIGN if attempt is None else LATE):
            return Life.UNKNOWN
        return Life.GONE

    # What is submitted.

    def start(self, record: dict[str, Any], take: Callable[[], str]) -> bool:
        """Submit a container's job."""
        uuid = str(record["uuid"])
        wanted = arguments.needs(record, self._options.reserve_extra_ram)
        if reason := sentences.too_large(wanted, self._nodes(wanted.partitions)):
            raise CannotRun(reason)
        if self._live(uuid) or not self._end_clean_ups(uuid):
            return False
        self.clean_up(uuid)
        attempt = Attempt(after=max((job.id for job in self._jobs.get(uuid, ())), default=0))
        self._state.keep(uuid, attempt)
        self._missing.pop(uuid, None)
        try:
            token = take()
        except ArvSshError:
            self._state.forget(uuid)
            raise
        self._submit(uuid, attempt, wanted, token)
        return True

    def _submit(self, uuid: str, attempt: Attempt, wanted: Needs, token: str) -> None:
        nice = min(order.INITIAL + self._options.priority_spread * len(self._waiting()), order.MAX_NICE)
        words = [*arguments.resources(self._options, wanted), f"--job-name={uuid}", f"--nice={nice}", *_FIXED]
        try:
            attempt.job = self._slurm.submit(words, self._script(uuid, token))
        except CannotRun as error:
            self._state.forget(uuid)
            raise CannotRun(f"Slurm cannot run it: {error}; change its container request") from error
        except Refused as error:
            attempt.refused = str(error)
            log.event(logger, "a job is refused", level=logging.WARNING, container_uuid=uuid, error=str(error))
        except NotSubmitted:
            attempt.unsubmitted = True
            self._state.keep(uuid, attempt)
            raise
        self._state.keep(uuid, attempt)
        if attempt.job is not None:
            log.event(logger, "submitted a job", container_uuid=uuid, job=attempt.job)
            self._add(Job(attempt.job, 0, nice, "PENDING", "", "", uuid, ""))

    def _script(self, uuid: str, token: str) -> str:
        return script.job(
            self._options.crunch_run,
            [*self._options.crunch_run_arguments, *self._crunch_run.arguments(uuid)],
            uuid,
            log_dir=str(self._crunch_run.log_dir / uuid),
            address="" if self._options.gateway_tunnel else self._options.gateway_address,
            secret=credentials.container_secret(self._crunch_run.system_root_token, uuid),
            environment=self._crunch_run.api_environment(token),
        )

    def _nodes(self, partitions: tuple[str, ...]) -> Sequence[Node]:
        """Return the nodes of the partitions, as known for a minute; none where Slurm does not know one of them."""
        now = time.monotonic()
        known = {names: one for names, one in self._inventories.items() if now - one.read <= INVENTORY}
        if partitions not in known:
            known[partitions] = _Inventory(self._slurm.nodes(partitions), now)
        self._inventories = known  # without the old ones: users make up any number of lists
        return known[partitions].nodes

    # What ends.

    def end(self, uuid: str, *, kill: bool) -> bool:
        """Ask crunch-run itself; what waits, or must be killed, is ended by Slurm."""
        sent = [
            self._slurm.cancel(job.id) if job.is_waiting or kill else self._slurm.terminate(job.id)
            for job in self._live(uuid)
        ]
        return any(sent)

    def why_gone(self, uuid: str) -> str:
        """Say why an attempt's job ended, from the queue or from accounting."""
        attempt = self._state.attempts.get(uuid)
        if attempt is None:
            return "crunch-run ended unexpectedly"
        if attempt.refused:
            return attempt.refused
        if attempt.job is None:
            return "Slurm never got its job"
        state, node = self._how_ended(uuid, attempt)
        return sentences.ending(attempt.job, state, node or attempt.node)

    def _how_ended(self, uuid: str, attempt: Attempt) -> tuple[str, str]:
        """Return state and node of an attempt's job; "" what is not known any more."""
        job = self._job_of(uuid, attempt)
        if job is not None:
            return job.state, job.node
        return (self._slurm.ended(attempt.job) if attempt.job is not None else None) or ("", "")

    def log_place(self, uuid: str) -> str:
        """Name the directory of a crunch-run's log on its node."""
        attempt = self._state.attempts.get(uuid)
        return f"{self._crunch_run.log_dir / uuid} on {attempt.node if attempt and attempt.node else 'its node'}"

    def hopeless(self, uuid: str) -> str:
        """Say why a waiting job will never start; "" when it may."""
        return next((why for job in self._live(uuid) if (why := sentences.hopeless(job))), "")

    # What is left.

    def clean_up(self, uuid: str) -> None:
        """Forget an attempt that is over; what it may have left on its node is removed by a job there."""
        attempt = self._state.attempts.get(uuid)
        if attempt is None:
            return
        if attempt.job is not None:
            state, node = self._how_ended(uuid, attempt)
            node = node or attempt.node
            if node and state != "COMPLETED":
                self._state.keep_clean_up(CleanUp(uuid, node, attempt.partition))
        self._state.forget(uuid)

    def _go_on(self, clean_up: CleanUp) -> None:
        """Submit a clean-up's job, or forget it once that has succeeded. Never beside a living job of the container."""
        name = f"{clean_up.uuid}{_SUFFIX}"
        last = next((job for job in self._jobs.get(name, ()) if job.id == clean_up.job), None)
        if last is not None and last.state in ("COMPLETED", "CANCELLED"):
            log.event(logger, "cleaned up after a container", container_uuid=clean_up.uuid, node=clean_up.node,
                      state=last.state)  # fmt: skip
            self._state.forget_clean_up(clean_up)
            return
        key, now = (clean_up.uuid, clean_up.node), time.monotonic()
        if self._is_being_cleaned(clean_up) or self._live(clean_up.uuid) or now < self._cleaned.get(key, now):
            return
        self._cleaned[key] = now + CLEAN_UP_AGAIN
        try:
            clean_up.job = self._slurm.submit(self._clean_up_arguments(clean_up, name), self._clean_up_script(clean_up))
            self._state.keep_clean_up(clean_up)
            self._add(Job(clean_up.job, 0, 0, "PENDING", "", "", name, ""))
        except CannotRun as error:  # the node is no more
            log.event(logger, "cannot clean up after a container", level=logging.WARNING, container_uuid=clean_up.uuid,
                      node=clean_up.node, error=str(error))  # fmt: skip
            self._state.forget_clean_up(clean_up)
        except (Refused, Unavailable) as error:
            log.event(logger, "cannot clean up now", level=logging.WARNING, container_uuid=clean_up.uuid,
                      error=str(error))  # fmt: skip

    def _is_being_cleaned(self, clean_up: CleanUp) -> bool:
        """Say whether a living job is this clean-up's: by its number, or one whose number sbatch did not tell."""
        others = {other.job for other in self._state.clean_ups.values() if other is not clean_up}
        return any(job.id not in others for job in self._live(f"{clean_up.uuid}{_SUFFIX}"))

    def _end_clean_ups(self, uuid: str) -> bool:
        """Cancel the clean-ups that wait: they would remove what a new attempt makes. False while one runs."""
        jobs = self._live(f"{uuid}{_SUFFIX}")
        if not all(job.is_waiting for job in jobs):
            return False
        for clean_up in list(self._state.clean_ups.values()):
            if clean_up.uuid == uuid and clean_up.job is not None:
                self._state.keep_clean_up(replace(clean_up, job=None))  # it is still to be done, after the new attempt
        for job in jobs:
            self._slurm.cancel(job.id)
        self._jobs.pop(f"{uuid}{_SUFFIX}", None)
        return True

    def _clean_up_arguments(self, clean_up: CleanUp, name: str) -> list[str]:
        partitions = (clean_up.partition,) if clean_up.partition else ()
        wanted = replace(_CLEAN_UP_NEEDS, uuid=clean_up.uuid, partitions=partitions)
        own = (f"--nodelist={clean_up.node}", f"--time={wanted.minutes}", f"--job-name={name}", *_FIXED)
        return [*arguments.resources(self._options, wanted), *own]

    def _clean_up_script(self, clean_up: CleanUp) -> str:
        log_dir = str(self._crunch_run.log_dir / clean_up.uuid)
        return script.clean_up(self._options.crunch_run, clean_up.uuid, log_dir=log_dir)

    # What waits.

    def _waiting(self) -> dict[str, Job]:
        """Return the waiting jobs by container."""
        return {
            name: job for name in self._jobs if not name.endswith(_SUFFIX) for job in self._live(name) if job.is_waiting
        }

    def arrange(self, containers: Sequence[str]) -> None:
        """Bring the waiting jobs into the order of ``containers``; those just submitted, or held, come later."""
        waiting = self._waiting()
        jobs = [job for uuid in containers if (job := waiting.get(uuid)) and job.priority]
        self._warn_of_a_floor(jobs)
        moves = order.changes([(job.priority + job.nice, job.nice) for job in jobs], self._options.priority_spread)
        for index, nice in list(moves.items())[:MOVES]:
            self._slurm.set_nice(jobs[index].id, nice)

    def _warn_of_a_floor(self, jobs: Sequence[Job]) -> None:
        """Say once that Slurm's own priorities are too small for an order: they end at 1, whatever the nice values."""
        if self._has_warned or sum(job.priority == 1 and job.nice > 0 for job in jobs) < 2:
            return
        self._has_warned = True
        log.event(
            logger, "waiting jobs have no order: Slurm's priorities are smaller than nice values; raise its weights "
            "(PriorityWeightPartition, for example)", level=logging.WARNING, nice=jobs[0].nice,
        )  # fmt: skip
