"""The OCI bundle of a container: its engine's instructions to the OCI runtime (runtime-spec, config.md).

Owns where engines keep bundles on this host. A bundle is the engine's own description of a container, which nothing
inside the container can change.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from crunch_sshd.runtimes import seccomp
from crunch_sshd.runtimes.seccomp import Filter

STATE_ROOTS = (
    ("runc", "/run/docker/runtime-runc/moby"),
    ("crun", "/run/docker/runtime-crun/moby"),
    ("runc", "/run/runc"),
    ("crun", "/run/crun"),
)
"""Where Docker and Podman have the runtimes keep their state."""
TASKS = (
    "/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby",
    "/run/containerd/io.containerd.runtime.v2.task/moby",
)
"""Where containerd keeps the bundles of Docker's containers, whatever their OCI runtime."""
DOCKERS = "/moby/"
"""Part of the path of each: containerd's namespace for Docker."""
PLAIN_PROCESS = {
    "terminal", "consoleSize", "user", "args", "env", "cwd", "capabilities", "rlimits", "noNewPrivileges",
    "oomScoreAdj",
}  # fmt: skip
"""The keys of ``process`` (runtime-spec, config.md) that are known here; security labels are not."""
PLAIN_USER = {"uid", "gid", "umask", "additionalGids", "username"}
PLAIN_NAMESPACES = {"mount", "network", "uts", "ipc", "pid", "cgroup"}
"""Without user and time namespaces."""
UNUSUAL = ("personality", "intelRdt", "timeOffsets", "memoryPolicy", "uidMappings", "gidMappings")
"""The keys of ``linux`` (runtime-spec, config-linux.md) that concern an exec too."""
STATE_TIMEOUT = 60.0
"""Seconds for the runtime to report a container's state."""
PROGRAMS = "/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Bundle:
    """``process`` and ``linux.seccomp`` of a bundle's config.json; no ``seccomp`` where the container has no filter.

    ``is_dockers`` distinguishes Docker's bundles from Podman's; Podman's exec does some things differently.
    ``is_plain`` says whether all that the OCI runtime does to an exec is known here (:func:`_is_plain`).
    """

    process: dict[str, Any]
    seccomp: dict[str, Any] | None
    is_dockers: bool = False
    is_plain: bool = False

    @cached_property
    def filters(self) -> tuple[Filter, ...]:
        """The compiled ``seccomp``. Raises :class:`arv_ssh.errors.Unavailable` as :func:`seccomp.compiled` does."""
        return (seccomp.compiled(self.seccomp),) if self.seccomp else ()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the container's programs."""
        return environment(self.process.get("env"))


@dataclass(frozen=True)
class State:
    """An OCI runtime that knows a container: its program, its state directory, and its report on the container."""

    program: str
    root: str
    facts: dict[str, Any]


def environment(words: Iterable[str] | None) -> dict[str, str]:
    """Return the variables of an engine's list of NAME=VALUE; the last one of a name counts."""
    return dict(word.partition("=")[::2] for word in words or ())


def read(directory: str) -> Bundle:
    """Return the bundle in ``directory``. Raises OSError, or ValueError when it holds no valid bundle."""
    try:
        config = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
        linux = config.get("linux") or {}
        process = config["process"]
        return Bundle(process, linux.get("seccomp"), DOCKERS in directory, _is_plain(process, linux))
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{directory}/config.json describes no container") from error


def _is_plain(process: dict[str, Any], linux: dict[str, Any]) -> bool:
    """Say whether a description has nothing for an exec but what :class:`Confinement` can hold and tests could try."""
    kinds = {one["type"] for one in linux.get("namespaces") or ()}
    return (
        {name for name, value in process.items() if value} <= PLAIN_PROCESS
        and {name for name, value in process["user"].items() if value} <= PLAIN_USER
        and not any(linux.get(name) for name in UNUSUAL)
        and kinds <= PLAIN_NAMESPACES
    )


def find_state(container_id: str) -> State | None:
    """Return what an OCI runtime at one of the known places says about the container; None if no runtime knows it."""
    for program, root in STATE_ROOTS:
        binary = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{PROGRAMS}")
        if binary and (Path(root) / container_id).is_dir():
            return State(binary, root, state(binary, root, container_id))
    return None


def state(binary: str, root: str, container_id: str) -> dict[str, Any]:
    """Return the container's state (runtime-spec, runtime.md "state"). Raises LookupError when the runtime has none."""
    found = subprocess.run(  # noqa: S603 - our own arguments
        [binary, "--root", root, "state", container_id], capture_output=True, text=True, timeout=STATE_TIMEOUT
    )
    if found.returncode:
        raise LookupError(found.stderr.strip())
    facts: dict[str, Any] = json.loads(found.stdout)
    return facts


def find(container_id: str) -> Bundle | None:
    """Return the bundle of the engine's container with that full id; None if this host has no readable one."""
    for root in TASKS:
        if (Path(root) / container_id / "config.json").is_file():
            return read(str(Path(root) / container_id))
    try:
        known = find_state(container_id)
    except LookupError:
        return None
    return read(known.facts["bundle"]) if known is not None else None
