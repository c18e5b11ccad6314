"""``Containers.SLURM`` of a cluster's config, and the keys beside it by which Arvados' dispatchers start crunch-run.

Owns the reading and checking of these keys. Knows no job: :mod:`arv_ssh.dispatch.slurm` makes one of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from arv_ssh.config import byte_size
from arv_ssh.errors import ConfigError

RESOURCES = ("--cpus-per-task=%C", "--mem=%MM", "--tmp=%TM", "--time=%W", "--partition=%P")
"""What a job asks for by default; an argument with an empty variable is left out."""
GPU_RESOURCES = ("--gpus=%G",)
VARIABLES = "UCMTGWP%"
PRIORITY_SPREAD = 10
"""Arvados' own default: the distance in Slurm's priorities between one waiting job and the next."""
NODE_NAME = "%N"
NOT_ONE_JOB = ("--array", "-a", "--wait", "-W", "--wrap", "--test-only")
"""Options with which sbatch does not submit the script that it is given once, or does not say so at once."""
_VARIABLE = re.compile(r"%(.?)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True)
class SlurmOptions:
    """How jobs are submitted. ``poll_interval`` is in seconds, ``reserve_extra_ram`` in bytes.

    ``arguments``, ``gpu_arguments`` and ``preemptible_arguments`` are sbatch's, with variables such as ``%C``;
    ``gateway_address`` may hold ``%N``, the node's name. ``gateway_tunnel`` is a controller's URL or "".
    """

    arguments: tuple[str, ...] = RESOURCES
    gpu_arguments: tuple[str, ...] = GPU_RESOURCES
    preemptible_arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    priority_spread: int = PRIORITY_SPREAD
    gateway_address: str = NODE_NAME
    gateway_tunnel: str = ""
    poll_interval: float = 10.0
    reserve_extra_ram: int = 0
    crunch_run: str = "crunch-run"
    crunch_run_arguments: tuple[str, ...] = ()


def parse(
    containers: dict[str, Any], slurm: dict[str, Any], where: str, *, poll_interval: float, gateway_tunnel: str
) -> SlurmOptions:
    """Read ``Containers`` and its section ``SLURM``; raise :class:`ConfigError` naming the key that is wrong."""
    return SlurmOptions(
        arguments=_resources(_arguments(slurm, "SbatchArgumentsList", RESOURCES, f"{where}.SLURM")),
        gpu_arguments=_arguments(slurm, "SbatchGPUArgumentsList", GPU_RESOURCES, f"{where}.SLURM"),
        preemptible_arguments=_arguments(slurm, "SbatchPreemptibleArgumentsList", (), f"{where}.SLURM"),
        environment=_environment(slurm, f"{where}.SLURM"),
        priority_spread=_spread(slurm, f"{where}.SLURM"),
        gateway_address=_address(slurm, f"{where}.SLURM"),
        gateway_tunnel=gateway_tunnel,
        poll_interval=poll_interval,
        reserve_extra_ram=_size(containers, "ReserveExtraRAM", where),
        crunch_run=_text(containers, "CrunchRunCommand", "crunch-run", where),
        crunch_run_arguments=_texts(containers, "CrunchRunArgumentsList", (), where),
    )


def _resources(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Put the default arguments before a list that asks for no resources, as those of older config files."""
    return arguments if any("%C" in word or "%M" in word for word in arguments) else RESOURCES + arguments


def _arguments(section: dict[str, Any], key: str, default: tuple[str, ...], where: str) -> tuple[str, ...]:
    words = _texts(section, key, default, where)
    for word in words:
        if not word.startswith("-"):
            raise ConfigError(f"{where}.{key} has {word!r}; its items are options of sbatch, such as --account=lab")
        if word.partition("=")[0] in NOT_ONE_JOB or word[:2] in NOT_ONE_JOB:
            raise ConfigError(f"{where}.{key} has {word!r}; each container is one job, so leave it out")
        for name in _VARIABLE.findall(word):
            if not name or name not in VARIABLES:
                raise ConfigError(f"{where}.{key} has %{name} in {word!r}; the variables are {_shown(VARIABLES)}")
    return words


def _shown(names: str) -> str:
    return ", ".join(f"%{name}" for name in names)


def _texts(section: dict[str, Any], key: str, default: tuple[str, ...], where: str) -> tuple[str, ...]:
    value = section.get(key)
    if value is None:
        return default
    if not isinstance(value, list) or not all(isinstance(word, str) and "\0" not in word for word in value):
        raise ConfigError(f"{where}.{key} is {value!r}; it must be a list of strings")
    return tuple(value)


def _text(section: dict[str, Any], key: str, default: str, where: str) -> str:
    value = section.get(key, default)
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ConfigError(f"{where}.{key} is {value!r}; it must be a program, such as {default}")
    return value


def _environment(slurm: dict[str, Any], where: str) -> Mapping[str, str]:
    value = slurm.get("SbatchEnvironmentVariables") or {}
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and _NAME.fullmatch(name) and isinstance(text, str) for name, text in value.items()
    ):
        raise ConfigError(f"{where}.SbatchEnvironmentVariables must be a section of names with strings as values")
    return value


def _spread(slurm: dict[str, Any], where: str) -> int:
    value = slurm.get("PrioritySpread", PRIORITY_SPREAD)
    if type(value) is not int or value < 0:
        raise ConfigError(f"{where}.PrioritySpread is {value!r}; it must be a whole number from 0")
    return value or PRIORITY_SPREAD  # Arvados' own file has 0 for the default


def _address(slurm: dict[str, Any], where: str) -> str:
    value = slurm.get("GatewayAddress") or NODE_NAME
    if not isinstance(value, str) or not re.fullmatch(r"(%N|[A-Za-z0-9.:-])+", value):
        raise ConfigError(f"{where}.GatewayAddress is {value!r}; it must be a host, such as %N.example.org")
    return value


def _size(section: dict[str, Any], key: str, where: str) -> int:
    value = section.get(key, 0)
    try:
        return byte_size.parse(value)
    except ValueError:
        raise ConfigError(f"{where}.{key} is {value!r}; it must be a size such as 256MiB") from None
