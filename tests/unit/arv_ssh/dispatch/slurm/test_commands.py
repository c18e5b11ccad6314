import os
from pathlib import Path

import pytest

from arv_ssh.dispatch.runs import CannotRun
from arv_ssh.dispatch.slurm.commands import Job, NotSubmitted, Refused, Slurm
from arv_ssh.errors import ConfigError, Unavailable


class Programs:
    """Programs of Slurm's that say what a test wants."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.slurm = Slurm({"PATH": f"{directory}:/usr/bin:/bin"}, timeout=20.0)

    def play(self, name: str, text: str) -> None:
        path = self._directory / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


def test_the_queue(programs: Programs) -> None:
    """Jobs of this user are read with whatever their reason says."""
    mine = f"echo \"$@\" | grep -q -e '--user={os.geteuid()}' || exit 1; "
    programs.play("squeue", f"{mine}cat <<'E'\n7|4294901657|10000|RUNNING|n1|main|name|None\n"
                            "8|5|-3|PENDING||main|other|ReqNodeNotAvail, UnavailableNodes:n[1-2]\nE")  # fmt: skip
    assert programs.slurm.queue() == [
        Job(7, 4294901657, 10000, "RUNNING", "n1", "main", "name", "None"),
        Job(8, 5, -3, "PENDING", "", "main", "other", "ReqNodeNotAvail, UnavailableNodes:n[1-2]"),
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("echo hello", "squeue answered 'hello', which is not a line of its format"),
        ("echo slurm_load_jobs error: Unable to contact >&2; exit 1", "squeue failed: .*Unable to contact"),
        ("exit 3", "squeue failed: exit status 3"),
    ],
)
def test_a_queue_that_cannot_be_read(programs: Programs, text: str, sentence: str) -> None:
    """Anything but the queue is an outage, in which nothing is decided."""
    programs.play("squeue", text)
    with pytest.raises(Unavailable, match=sentence):
        programs.slurm.queue()


def test_a_program_that_hangs(programs: Programs, tmp_path: Path) -> None:
    """A program that does not answer is given up."""
    programs.play("squeue", "exec sleep 100")
    with pytest.raises(Unavailable, match="squeue did not answer within 0.2 s"):
        Slurm({"PATH": f"{tmp_path}:/usr/bin:/bin"}, timeout=0.2).queue()


def test_a_full_queue(programs: Programs, tmp_path: Path) -> None:
    """An sbatch that keeps asking a full queue is stopped, and certainly has submitted nothing."""
    programs.play("sbatch", "echo 'sbatch: error: Slurm job queue full, sleeping and retrying' >&2; exec sleep 100")
    with pytest.raises(NotSubmitted, match="sbatch failed: Slurm job queue full, sleeping and retrying"):
        Slurm({"PATH": f"{tmp_path}:/usr/bin:/bin"}, timeout=2.0).submit([], "")


def test_a_program_that_is_missing(tmp_path: Path) -> None:
    """A program that is not there, or cannot be executed, certainly submitted nothing."""
    slurm = Slurm({"PATH": str(tmp_path)})
    with pytest.raises(NotSubmitted, match="cannot execute sbatch: No such file"):
        slurm.submit([], "")
    (tmp_path / "sbatch").write_text("#!/bin/sh\n")
    with pytest.raises(NotSubmitted, match="cannot execute sbatch: Permission denied"):
        slurm.submit([], "")
    with pytest.raises(ConfigError, match="cannot execute sbatch; install"):
        slurm.check()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", CannotRun),
        ("sbatch: error: invalid partition specified: x", CannotRun),
        ("sbatch: error: Unable to contact slurm controller (connect failure)", NotSubmitted),
        ("sbatch: error: Munge encode failed: Failed to access socket", NotSubmitted),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", Unavailable),
        ("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy", Refused),
    ],
)
def test_refusals(programs: Programs, said: str, kind: type[Exception]) -> None:
    """What sbatch says decides whether the job was submitted, may be later, or can never run."""
    programs.play("sbatch", f"echo '{said}' >&2; exit 1")
    with pytest.raises(kind) as caught:
        programs.slurm.submit(["--x"], "#!/bin/sh\n")
    assert type(caught.value) is kind
    assert "sbatch: error" not in str(caught.value)


def test_submitting(programs: Programs, tmp_path: Path) -> None:
    """The script goes to standard input, and the number comes back; any other answer leaves it open."""
    programs.play("sbatch", f'echo "$@" >{tmp_path}/arguments; cat >{tmp_path}/script; echo "12;cluster"')
    assert programs.slurm.submit(["--mem=1M"], "#!/bin/sh\ntrue\n") == 12
    assert (tmp_path / "arguments").read_text() == "--parsable --mem=1M\n"
    assert (tmp_path / "script").read_text() == "#!/bin/sh\ntrue\n"
    programs.play("sbatch", "echo Bonjour")
    with pytest.raises(Unavailable, match="sbatch answered 'Bonjour', which is not the number of a job"):
        programs.slurm.submit([], "")


def test_a_job_that_is_over_cannot_be_told_anything(programs: Programs) -> None:
    """A job that ended since we looked is no outage."""
    programs.play("scancel", "echo 'scancel: error: Kill job error on job id 1: Invalid job id specified' >&2; exit 1")
    assert programs.slurm.cancel(1) is False
    programs.play("scancel", "echo 'scancel: error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(Unavailable):
        programs.slurm.terminate(1)


def test_slurmctld_hangs_up(programs: Programs) -> None:
    """Slurm's programs do not say that slurmctld refused munge's credential; we do."""
    programs.play("squeue", "echo 'slurm_load_jobs error: Zero Bytes were transmitted or received' >&2; exit 1")
    with pytest.raises(Unavailable, match="squeue failed: .*Zero Bytes.* check munge's key .* and their clocks"):
        programs.slurm.queue()


def test_accounting(programs: Programs) -> None:
    """What squeue has forgotten is asked of accounting; where that is off, nothing is known."""
    programs.play("sacct", "echo 'CANCELLED by 0|n1'")
    assert programs.slurm.ended(7) == ("CANCELLED by 0", "n1")
    programs.play("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert programs.slurm.ended(7) is None


def test_what_the_queue_lacks(programs: Programs) -> None:
    """Slurm says of single jobs whether it has them; anything else is an outage."""
    programs.play("squeue", "echo 7")
    assert programs.slurm.known([7, 8]) == {7}
    programs.play("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert programs.slurm.known([7]) == set()
    programs.play("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(Unavailable, match="Unable to contact"):
        programs.slurm.known([7])
    assert programs.slurm.known([]) == set()


def test_more_jobs_than_fit_into_an_argument(programs: Programs, tmp_path: Path) -> None:
    """Slurm is asked about many jobs in several calls."""
    programs.play("squeue", f"echo x >>{tmp_path}/calls; echo 60000000")
    assert programs.slurm.known(range(60_000_000, 60_030_000)) == {60_000_000}
    assert len((tmp_path / "calls").read_text()) == 2 * 30


@pytest.mark.parametrize("text", ["echo '2|4000|0'; exit 1", "echo '2|4000|0'; echo 'N/A|N/A|N/A'", "echo '2|40'"],
                         ids=["cut short", "rubbish", "half a line"])  # fmt: skip
def test_nodes_that_are_not_known(programs: Programs, text: str) -> None:
    """From an answer that is not whole nobody may conclude that a container is too large."""
    programs.play("sinfo", text)
    assert programs.slurm.nodes() == []


@pytest.mark.parametrize("accounting", ["exit 1", "exit 0", "echo 'RUNNING|n3'"], ids=["off", "ignorant", "behind"])
def test_the_file_of_jobs_that_are_over(programs: Programs, accounting: str) -> None:
    """Where accounting has no end of a job, the file of Slurm's completion plugin is asked; its last line counts."""
    spool = "*--completion*) printf 'FAILED|n1\\nTIMEOUT|n2\\n';;"
    programs.play("sacct", f'case "$*" in {spool} *) {accounting};; esac')
    assert programs.slurm.ended(7) == ("TIMEOUT", "n2")


def test_nodes(programs: Programs) -> None:
    """A node's processors, memory and disk are read; those of heterogeneous groups have a plus sign."""
    programs.play("sinfo", "echo '2|4000|0'; echo '64+|256000+|1000'")
    assert [(node.cpus, node.memory, node.disk) for node in programs.slurm.nodes(("a",))] == [
        (2, 4000, 0), (64, 256000, 1000),
    ]  # fmt: skip
