from typing import Any

import pytest

from arv_ssh.config.slurm_options import SlurmOptions
from arv_ssh.dispatch.runs import CannotRun
from arv_ssh.dispatch.slurm import arguments

UUID = "zzzzz-dz642-abcdeabcdeabcde"


def record(**attributes: Any) -> dict[str, Any]:
    return {"uuid": UUID, "runtime_constraints": {"vcpus": 2, "ram": 3 << 20}} | attributes


def made(options: SlurmOptions, reserve: int = 0, **attributes: Any) -> list[str]:
    return arguments.resources(options, arguments.needs(record(**attributes), reserve))


def test_the_defaults() -> None:
    """Processors, memory and disk in MB; time and partition are left out when the container has none."""
    assert made(SlurmOptions()) == ["--cpus-per-task=2", "--mem=3M", "--tmp=0M"]


def test_all_variables() -> None:
    """Each variable has its value; memory is rounded up, with caches and the reserve; minutes are rounded up."""
    options = SlurmOptions(arguments=("--x=%U/%C/%M/%T/%W/%P/%%",), gpu_arguments=("--gpus=%G",),
                           preemptible_arguments=("--qos=low",))  # fmt: skip
    constraints = {"vcpus": 4, "ram": (3 << 20) + 1, "keep_cache_ram": 1 << 20, "gpu": {"device_count": 2}}
    mounts = {"/tmp": {"kind": "tmp", "capacity": 5 << 20}, "/data": {"kind": "bind", "path": "/data"}}
    scheduling = {"max_run_time": 61, "partitions": ["a", "b"], "preemptible": True}
    assert made(options, 1 << 20, runtime_constraints=constraints, mounts=mounts, scheduling_parameters=scheduling) == [
        f"--x={UUID}/4/6/5/2/a,b/%", "--gpus=2", "--qos=low",
    ]  # fmt: skip


def test_an_empty_variable_leaves_its_argument_out() -> None:
    """An argument with %P or %W is not given when the container names no partition or no time."""
    assert made(SlurmOptions(arguments=("--a=%P", "--b=%W", "--c=%%"))) == ["--c=%"]


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"runtime_constraints": {"ram": "much"}}, "its ram is 'much'"),
        ({"runtime_constraints": {"vcpus": -1}}, "its vcpus is -1"),
        ({"scheduling_parameters": {"partitions": ["a --uid=0"]}}, "'a --uid=0', which cannot be one of Slurm's"),
        ({"scheduling_parameters": {"partitions": ["-x"]}}, "cannot be one of Slurm's"),
        ({"scheduling_parameters": {"max_run_time": 1.5}}, "its max_run_time is 1.5"),
        ({"runtime_constraints": {"vcpus": True}}, "its vcpus is True"),
        ({"runtime_constraints": {"vcpus": 2**32 + 1}}, "its vcpus is 4294967297, which is more than Slurm can count"),
        ({"runtime_constraints": {"ram": 10**400}}, "its ram is 10{59}…, which is more than Slurm can count"),
        ({"runtime_constraints": {"ram": "x" * 1000}}, "its ram is 'x{59}…, which is not a whole number"),
        ({"runtime_constraints": {"gpu": {"device_count": 2**32 + 1}}}, "its device_count is 4294967297"),
        ({"mounts": {"/tmp": {"kind": "tmp", "capacity": 10**400}}}, "its capacity is 10"),
        ({"scheduling_parameters": {"max_run_time": 10**400}}, "its max_run_time is 10"),
        ({"scheduling_parameters": {"partitions": ["a" * 257]}}, "cannot be one of Slurm's"),
        ({"scheduling_parameters": {"partitions": ["é"]}}, "cannot be one of Slurm's"),
        ({"scheduling_parameters": {"partitions": ["a\n#SBATCH --uid=0"]}}, "cannot be one of Slurm's"),
        ({"scheduling_parameters": {"partitions": {"a": 1}}}, "cannot be one of Slurm's"),
        ({"scheduling_parameters": {"partitions": ["a"] * 20_000}}, "name 20000 partitions"),
    ],
)
def test_what_cannot_be_an_argument(attributes: dict[str, Any], sentence: str) -> None:
    """A value that a user made up never becomes an option; the sentence names it."""
    with pytest.raises(CannotRun, match=sentence):
        made(SlurmOptions(), **attributes)


def test_the_longest_time() -> None:
    """Slurm takes a number of minutes that is too large for no limit, so it gets the largest that is none."""
    assert "--time=35791394" in made(SlurmOptions(), scheduling_parameters={"max_run_time": 2**40})
