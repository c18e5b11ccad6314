"""What a container asks for, as options of sbatch. Pure.

Owns the variables of ``SbatchArgumentsList`` and the check that what a user wrote can be one of their values: a value
never becomes an option of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from arv_ssh.config.slurm_options import SlurmOptions
from arv_ssh.dispatch.runs import CannotRun

MB = 1 << 20
MAX_COUNT = 2**31 - 1
"""The most processors or GPUs: Slurm reads a larger number as another one."""
MAX_SIZE = 2**62
"""The most bytes, or seconds, that a container may ask for."""
MAX_MINUTES = 2**31 // 60
"""The longest time limit: 68 years. Slurm takes larger ones for no limit."""
MAX_PARTITIONS = 100
"""All of them are one argument of sbatch."""
_SHOWN = 60
"""Characters of a wrong value in a sentence."""
_PARTITION = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,255}", re.ASCII)
_CORRECT = "correct its container request"
_VARIABLE = re.compile(r"%(.)", re.DOTALL)

Record = dict[str, Any]


@dataclass(frozen=True)
class Needs:
    """A container's needs: processors, MB of memory and of disk, GPUs, minutes (0: no limit), partitions."""

    uuid: str
    vcpus: int
    memory: int
    disk: int
    gpus: int
    minutes: int
    partitions: tuple[str, ...]
    preemptible: bool


def needs(record: Record, reserve_extra_ram: int) -> Needs:
    """Read a container's needs; raise :class:`CannotRun` naming a constraint that no job can have."""
    constraints, scheduling = record.get("runtime_constraints") or {}, record.get("scheduling_parameters") or {}
    memory = sum(_whole(constraints, name, MAX_SIZE) for name in ("ram", "keep_cache_ram")) + reserve_extra_ram
    mounts = [mount for mount in (record.get("mounts") or {}).values() if isinstance(mount, dict)]
    disk = sum(_whole(mount, "capacity", MAX_SIZE) for mount in mounts if mount.get("kind") == "tmp")
    gpu = constraints.get("gpu") or constraints.get("cuda") or {}
    return Needs(
        uuid=str(record["uuid"]),
        vcpus=max(_whole(constraints, "vcpus", MAX_COUNT), 1),
        memory=max(_rounded_up(memory, MB), 1),
        disk=_rounded_up(disk, MB),
        gpus=_whole(gpu, "device_count", MAX_COUNT) if isinstance(gpu, dict) else 0,
        minutes=min(_rounded_up(_whole(scheduling, "max_run_time", MAX_SIZE), 60), MAX_MINUTES),
        partitions=_partitions(scheduling.get("partitions") or []),
        preemptible=bool(scheduling.get("preemptible")),
    )


def resources(options: SlurmOptions, wanted: Needs) -> list[str]:
    """Return the arguments of the config's lists with the variables' values."""
    words = [*options.arguments]
    words += options.gpu_arguments if wanted.gpus else ()
    words += options.preemptible_arguments if wanted.preemptible else ()
    values = {
        "U": wanted.uuid, "C": str(wanted.vcpus), "M": str(wanted.memory), "T": str(wanted.disk),
        "G": str(wanted.gpus), "W": str(wanted.minutes or ""), "P": ",".join(wanted.partitions), "%": "%",
    }  # fmt: skip
    return [_filled(word, values) for word in words if all(values[name] for name in _VARIABLE.findall(word))]


def _filled(word: str, values: dict[str, str]) -> str:
    return _VARIABLE.sub(lambda found: values[found.group(1)], word)


def _rounded_up(number: int, unit: int) -> int:
    return -(-number // unit)


def _whole(section: Record, name: str, most: int) -> int:
    value = section.get(name)
    if value is None:
        return 0
    if type(value) is not int or value < 0:
        raise CannotRun(f"its {name} is {_shown(value)}, which is not a whole number from 0; {_CORRECT}")
    if value > most:
        raise CannotRun(f"its {name} is {_shown(value)}, which is more than Slurm can count; {_CORRECT}")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _partitions(names: Iterable[Any]) -> tuple[str, ...]:
    found = tuple(names) if isinstance(names, list | tuple) else (names,)
    if len(found) > MAX_PARTITIONS:
        raise CannotRun(f"its scheduling_parameters name {len(found)} partitions, above {MAX_PARTITIONS}; {_CORRECT}")
    for name in found:
        if not isinstance(name, str) or not _PARTITION.fullmatch(name):
            raise CannotRun(
                f"its scheduling_parameters name the partition {_shown(name)}, which cannot be one of Slurm's; "
                f"{_CORRECT}"
            )
    return found
