"""What a container asks for, as options of sbatch. Pure.

Owns the variables of ``SbatchArgumentsList`` and the check that what a user wrote can be one of their values: a value
never becomes an option of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from arv_ssh.config.slurm_options import SlurmOptions
from arv_ssh.dispatch.runs import CannotRun

MB = 1 << 20
_PARTITION = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*", re.ASCII)
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
    memory = sum(_whole(constraints, name, 0) for name in ("ram", "keep_cache_ram")) + reserve_extra_ram
    mounts = [mount for mount in (record.get("mounts") or {}).values() if isinstance(mount, dict)]
    disk = sum(_whole(mount, "capacity", 0) for mount in mounts if mount.get("kind") == "tmp")
    gpu = constraints.get("gpu") or constraints.get("cuda") or {}
    return Needs(
        uuid=str(record["uuid"]),
        vcpus=max(_whole(constraints, "vcpus", 1), 1),
        memory=max(math.ceil(memory / MB), 1),
        disk=math.ceil(disk / MB),
        gpus=_whole(gpu, "device_count", 0) if isinstance(gpu, dict) else 0,
        minutes=math.ceil(_whole(scheduling, "max_run_time", 0) / 60),
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


def _whole(section: Record, name: str, default: int) -> int:
    value = section.get(name, default)
    if value is None:
        return default
    if type(value) is not int or value < 0:
        raise CannotRun(f"its {name} is {value!r}, which is not a whole number from 0; correct its container request")
    return value


def _partitions(names: Iterable[Any]) -> tuple[str, ...]:
    found = tuple(names) if isinstance(names, list | tuple) else (names,)
    for name in found:
        if not isinstance(name, str) or not _PARTITION.fullmatch(name):
            raise CannotRun(f"its scheduling_parameters name the partition {name!r}, which cannot be one of Slurm's")
    return found
