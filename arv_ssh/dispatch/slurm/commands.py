"""Slurm's programs: squeue, sbatch, scancel, scontrol, sacct and sinfo, with their time-outs and text formats.

Owns the way from a call to what a program answered, or to one of three failures: it cannot be asked now
(:class:`Unavailable`), it refused for a reason that may pass (:class:`Refused`), or it refused for good
(:class:`CannotRun`). Knows no container.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from arv_ssh.dispatch.runs import CannotRun
from arv_ssh.errors import ArvSshError, ConfigError, Unavailable

TIMEOUT = 60.0
"""Seconds for a program: Slurm's own MessageTimeout is 10, and it tries again; a loaded slurmctld takes that long."""
PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "SLURM_CONF", "USER", "LOGNAME")
"""The part of the dispatcher's own environment that Slurm's programs see, and with sbatch the job."""
INSTALL = (
    "install Slurm's programs on this machine (in Debian: slurm-client) and put them in the dispatcher's PATH"
)
REJECTED = "zero bytes were transmitted or received"
"""What Slurm's programs say, in lower case, when slurmctld hangs up on them: munge's credential does not hold there."""
CHECK_MUNGE = (
    "slurmctld hung up: check munge's key on this machine and on slurmctld's, and their clocks, which may differ by "
    "five minutes"
)
LONGEST_SENTENCE = 300
"""Characters kept of what a program said."""
AT_ONCE = 1000
"""Numbers of jobs in one argument, which may have 128 KB."""
WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD",
                     "SPECIAL_EXIT"})  # fmt: skip
RUNNING = frozenset({"RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT", "COMPLETING"})
"""The states of jobs that are not over (squeue(1), "JOB STATE CODES")."""

_MINE = ("--noheader", "--local", "--all", f"--user={os.geteuid()}")
"""What squeue shows here: the jobs that this user has in this cluster, in any partition."""
_PREFIX = re.compile(r"^\w+: (error: )?(Batch job submission failed: )?")
PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")
_QUEUE = "%A|%Q|%y|%T|%N|%P|%j|%r"
"""Number, priority, nice, state, nodes, partition, name, reason; the one with free text comes last. ``%A`` is a number
for parts of job arrays and of heterogeneous jobs too."""
_FOR_GOOD = (
    "invalid partition", "node configuration is not available", "can not be satisfied", "invalid account",
    "invalid generic resource", "invalid feature", "invalid qos", "invalid license", "invalid node name",
    "requested time limit is invalid", "more processors requested than permitted", "invalid job array",
    "unrecognized option", "invalid option", "requested partition configuration not available",
)  # fmt: skip
"""Parts of sbatch's messages about what will not be otherwise tomorrow (slurm_errno.c), in lower case."""
_NOT_SUBMITTED = (
    "unable to contact slurm controller", "connection refused", "munge", "authentication", "in standby mode",
    "temporarily unable", "configless", "connect failure", "configuration source",
)  # fmt: skip
"""The same of a slurmctld, or a munged, that has certainly not got the job."""
_RETRYING = "sleeping and retrying"
"""What sbatch says of a queue that is full (MaxJobCount): it has been refused, and asks again for two minutes."""
_NO_ANSWER = (
    "timed out", "transport endpoint", "zero bytes", "unexpected message received", "slurm_load", "connection reset",
)  # fmt: skip
"""The same of a slurmctld that may have got it."""


class NotSubmitted(Unavailable):
    """Slurm cannot be reached now, and has not got the job."""


class Refused(ArvSshError):
    """Slurm refused a job for a reason that may pass, such as an account's limit."""


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it. ``priority`` 0 means held."""

    id: int
    priority: int
    nice: int
    state: str
    node: str
    partition: str
    name: str
    reason: str

    @property
    def is_waiting(self) -> bool:
        """Say whether it has not begun."""
        return self.state in WAITING

    @property
    def is_live(self) -> bool:
        """Say whether it waits or runs."""
        return self.state in WAITING or self.state in RUNNING


@dataclass(frozen=True)
class Node:
    """What a node has: processors, and MB of memory and of local disk."""

    cpus: int
    memory: int
    disk: int


class Slurm:
    """Slurm's programs, with ``environment`` (the config's) added to theirs."""

    def __init__(self, environment: Mapping[str, str], timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        own = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self._environment = own | dict(environment)

    def check(self) -> None:
        """Raise :class:`ConfigError` unless this machine has Slurm's programs."""
        for program in PROGRAMS:
            if shutil.which(program, path=self._environment.get("PATH")) is None:
                raise ConfigError(f"cannot execute {program}; {INSTALL}")

    def queue(self) -> list[Job]:
        """Return this user's jobs, those that ended in the last minutes (MinJobAge) among them.

        Other users' jobs are nothing to go by: anybody may give his own a container's name, or one of several lines.
        """
        lines = self._ask("squeue", *_MINE, "--states=all", f"--format={_QUEUE}").splitlines()
        return [_job(line) for line in lines if line.strip()]

    def known(self, jobs: Sequence[int]) -> set[int]:
        """Return those of ``jobs`` that Slurm has: the queue lacks them too when its answer was cut short."""
        found: set[int] = set()
        for start in range(0, len(jobs), AT_ONCE):
            asked = ",".join(map(str, jobs[start : start + AT_ONCE]))
            done = self._run("squeue", [*_MINE, "--states=all", "--format=%A", f"--jobs={asked}"])
            if done.returncode and "invalid job id" not in done.stderr.lower():  # its answer about a single one
                raise Unavailable(f"squeue failed: {_sentence(done.stderr)}")
            found.update(int(word) for word in done.stdout.split() if word.isdecimal())
        return found.intersection(jobs)

    def submit(self, arguments: Sequence[str], script: str) -> int:
        """Submit a job; return its id. Raises :class:`Refused` and :class:`CannotRun` too."""
        done = self._run("sbatch", ["--parsable", *arguments], script)
        if done.returncode:
            raise _refusal(done)
        found = re.fullmatch(r"(\d+)(;\S*)?", done.stdout.strip())
        if found is None:
            raise Unavailable(f"sbatch answered {_sentence(done.stdout)!r}, which is not the number of a job")
        return int(found.group(1))

    def cancel(self, job: int) -> bool:
        """End a job: what runs gets SIGTERM, and SIGKILL after Slurm's KillWait."""
        return self._tell("scancel", str(job))

    def terminate(self, job: int) -> bool:
        """Send SIGTERM to a running job's script alone, which becomes crunch-run."""
        return self._tell("scancel", "--batch", "--signal=TERM", str(job))

    def set_nice(self, job: int, nice: int) -> bool:
        """Change a waiting job's place."""
        return self._tell("scontrol", "update", f"JobId={job}", f"Nice={nice}")

    def _tell(self, program: str, *arguments: str) -> bool:
        """Do something to a job; False when it is over, or has begun, since we looked."""
        done = self._run(program, arguments)
        self._check_contact(program, done)
        return not done.returncode

    @staticmethod
    def _check_contact(program: str, done: subprocess.CompletedProcess[str]) -> None:
        """Raise when a program failed for want of Slurm, not for what it was asked."""
        if done.returncode and any(part in done.stderr.lower() for part in (*_NOT_SUBMITTED, *_NO_ANSWER)):
            raise Unavailable(f"{program} failed: {_sentence(done.stderr)}")

    def ended(self, job: int) -> tuple[str, str] | None:
        """Return state and node of a job that squeue has forgotten; None where nothing has kept them.

        Accounting (slurmdbd) is asked first, then the file of ``JobCompType=jobcomp/filetxt``, which sacct reads here.
        """
        return self._recorded(job) or self._recorded(job, "--completion")

    def _recorded(self, job: int, *source: str) -> tuple[str, str] | None:
        fields = ["--noheader", "--parsable2", "--allocations", "--format=State,NodeList", f"--jobs={job}"]
        try:
            done = self._run("sacct", [*fields, *source])
        except Unavailable:
            return None
        # The file keeps what a Slurm did that began to count anew: the last line is this one's.
        state, found, node = (done.stdout.splitlines() or [""])[-1].partition("|")
        if done.returncode or not found or state in WAITING or state in RUNNING:  # slurmdbd has not heard of its end
            return None
        return state, "" if node == "None assigned" else node

    def nodes(self, partitions: Sequence[str] = ()) -> list[Node]:
        """Return all nodes of ``partitions``, of all without any, whatever their state; none for a wrong partition."""
        among = [f"--partition={','.join(partitions)}"] if partitions else ["--all"]
        done = self._run("sinfo", ["--noheader", "--Node", "--format=%c|%m|%d", *among])
        self._check_contact("sinfo", done)
        found = [_node(line) for line in done.stdout.splitlines()]
        # What is known of some nodes only says nothing about the largest.
        return [] if done.returncode or None in found else [node for node in found if node]

    def _ask(self, program: str, *arguments: str) -> str:
        done = self._run(program, arguments)
        if done.returncode:
            raise Unavailable(f"{program} failed: {_sentence(done.stderr) or f'exit status {done.returncode}'}")
        return done.stdout

    def _run(
        self, program: str, arguments: Sequence[str], script: str = ""
    ) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # noqa: S603 - Slurm's programs, from the administrator's PATH
                [program, *arguments], input=script, capture_output=True, text=True, errors="replace",
                timeout=self._timeout, env=self._environment, cwd="/",
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr or ""
            if _RETRYING in said:
                raise NotSubmitted(f"{program} failed: {_sentence(said)}") from None
            raise Unavailable(f"{program} did not answer within {self._timeout:g} s") from None
        except OSError as error:
            raise NotSubmitted(f"cannot execute {program}: {error.strerror}; {INSTALL}") from error


def _job(line: str) -> Job:
    words = line.split("|", 7)
    if len(words) != 8 or not words[0].isdecimal():
        raise Unavailable(f"squeue answered {_sentence(line)!r}, which is not a line of its format")
    number, priority, nice, state, node, partition, name, reason = words
    return Job(int(number), _number(priority), _nice(nice), state, node, partition, name, reason)


def _node(line: str) -> Node | None:
    """Read a line of sinfo; those of heterogeneous groups have plus signs."""
    words = [word.strip().rstrip("+") for word in line.split("|")]
    return Node(*map(int, words)) if len(words) == 3 and all(word.isdecimal() for word in words) else None


def _number(text: str) -> int:
    digits = text.strip().rstrip("+")
    return int(digits) if digits.isdecimal() else 0


def _nice(text: str) -> int:
    return int(text) if re.fullmatch(r"-?\d+", text.strip()) else 0


def _refusal(done: subprocess.CompletedProcess[str]) -> ArvSshError:
    said = _sentence(done.stderr) or f"exit status {done.returncode}"
    if any(part in said.lower() for part in _FOR_GOOD):
        return CannotRun(said)
    for parts, kind in ((_NOT_SUBMITTED, NotSubmitted), (_NO_ANSWER, Unavailable)):
        if any(part in said.lower() for part in parts):
            return kind(f"sbatch failed: {said}")
    return Refused(f"Slurm refused its job: {said}")


def _sentence(text: str) -> str:
    """Return what a program said on one line, without its own prefixes."""
    lines = [_PREFIX.sub("", line.strip()) for line in text.splitlines()]
    sentence = "; ".join(dict.fromkeys(line for line in lines if line))
    shown = sentence if len(sentence) <= LONGEST_SENTENCE else f"{sentence[:LONGEST_SENTENCE]}…"
    return f"{shown} ({CHECK_MUNGE})" if REJECTED in sentence.lower() else shown
