"""A container record's demands on a container engine: read, checked and named. Pure.

Owns the reading of a record's image, command, cwd, environment, mounts and runtime_constraints; knows no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arv_ssh.errors import Unprocessable


@dataclass(frozen=True)
class Bind:
    """A directory or file of the host at ``target`` in the container."""

    source: str
    target: str
    writable: bool


@dataclass(frozen=True)
class ContainerOptions:
    """``directory`` None and ``user`` "" leave the image's default; ``memory`` (bytes) and ``cpus`` 0 mean no limit.

    ``scratch`` are the targets of ``tmp`` mounts: empty directories that every user may write to. ``hold`` is the time
    in seconds for which the owner wants the container kept up if its program fails.
    """

    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str | None
    user: str
    memory: int
    cpus: float
    scratch: tuple[str, ...]
    binds: tuple[Bind, ...]
    hold: float = 0.0


def from_record(record: Mapping[str, Any]) -> ContainerOptions:
    """Read a container record; raise :class:`Unprocessable`, naming the attribute, if one cannot be honoured."""
    image = record.get("container_image")
    if not isinstance(image, str) or not image:
        raise Unprocessable(f"container {record.get('uuid')} names no container_image")
    constraints = record.get("runtime_constraints") or {}
    mounts = record.get("mounts") or {}
    directory = record.get("cwd") or ""
    return ContainerOptions(
        image=image,
        command=tuple(str(word) for word in record.get("command") or ()),
        # Only the record's environment: crunch-run's own environment stays outside.
        environment={str(name): str(value) for name, value in (record.get("environment") or {}).items()},
        directory=None if directory in ("", ".") else directory,
        user=str(constraints.get("user") or ""),
        memory=int(_number(constraints, "ram")),
        cpus=float(_number(constraints, "vcpus")),
        scratch=tuple(target for target, mount in mounts.items() if _kind(target, mount) == "tmp"),
        binds=tuple(_bind(target, mount) for target, mount in mounts.items() if _kind(target, mount) == "bind"),
        hold=float(_number(constraints, "hold_on_failure")),
    )


def _number(constraints: Mapping[str, Any], key: str) -> int | float:
    value = constraints.get(key) or 0
    if not isinstance(value, int | float) or not value >= 0:  # as with NaN
        raise Unprocessable(f"runtime_constraints.{key} is {value!r}; it must be a number that is not negative")
    return value


def _kind(target: str, mount: Mapping[str, Any]) -> str:
    kind = str(mount.get("kind"))
    if kind not in ("tmp", "bind"):
        raise Unprocessable(f"the mount at {target} is of kind {kind}; this crunch-run can mount tmp and bind")
    if not target.startswith("/"):
        raise Unprocessable(f"the mount target {target!r} is not an absolute path")
    return kind


def _bind(target: str, mount: Mapping[str, Any]) -> Bind:
    source = str(mount.get("path") or "")
    if not source.startswith("/"):
        raise Unprocessable(f"the bind mount at {target} has no absolute path of the host: {source!r}")
    return Bind(source=source, target=target, writable=bool(mount.get("writable", False)))
