"""The restrictions that the engine's own exec puts on a container's process, in every dimension that Linux has.

Owns the record of them, and the two ways to obtain it: from the container's OCI bundle, which the engine wrote and
nothing inside can change, and from the contained process itself if there is no bundle. Knows nothing of how the
restrictions are put on a process.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from crunch_sshd.runtimes.seccomp import Filter

Limit = tuple[int, int, int]
"""A resource limit: its number (setrlimit(2)), soft, hard; -1 means no limit."""
UMASK = 0o022
"""The umask that the OCI runtimes set when the bundle gives none."""
UNCONFINED = "unconfined"
CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
"""The sets of capabilities(7), as /proc/PID/status names them."""
CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
"""In the order of their numbers (linux/capability.h)."""


@dataclass(frozen=True)
class Confinement:
    """The restrictions on a process in a container. ``uid`` and ``gid`` are the container's, ``groups`` this host's."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: dict[str, int]
    umask: int
    limits: list[Limit]
    oom_score_adj: int
    label: str
    filters: tuple[Filter, ...] = ()


def capabilities(process: Mapping[str, Any], uid: int) -> dict[str, int]:
    """Return the five sets of a program that the OCI runtime executes as ``uid`` (runtime-spec, config.md)."""
    described = process.get("capabilities") or {}
    sets = {
        name: _mask(described.get(key) or ())
        for name, key in (("CapInh", "inheritable"), ("CapBnd", "bounding"), ("CapAmb", "ambient"))
    }
    return after_execve(sets, uid)


def without_more_than_bounding(process: Mapping[str, Any], uid: int) -> Mapping[str, Any]:
    """Return the process description as ``docker exec`` changes it for ``uid``.

    A user other than root has nothing beyond the bounding set. (The container's own user may have more: Podman gives
    it the requested capabilities.)
    """
    if uid in (0, process["user"]["uid"]):
        return process
    bounding = (process.get("capabilities") or {}).get("bounding") or []
    return {**process, "capabilities": {"bounding": bounding}}


def after_execve(sets: Mapping[str, int], uid: int) -> dict[str, int]:
    """Return the sets that execve(2) derives from the inheritable, bounding and ambient set (capabilities(7))."""
    gained = sets["CapInh"] | sets["CapBnd"] if uid == 0 else 0
    permitted = gained | sets["CapAmb"]
    found = {**sets, "CapPrm": permitted, "CapEff": permitted}
    return {name: found[name] for name in CAPABILITY_SETS}


def _mask(names: Iterable[str]) -> int:
    """Return a set of capabilities as a number, leaving out those newer than this program: fewer, never more."""
    numbers = {f"CAP_{name}": number for number, name in enumerate(CAPABILITIES)}
    return sum(1 << numbers[name] for name in set(names) & numbers.keys())


def limits(process: Mapping[str, Any], inherited: Iterable[Limit]) -> list[Limit]:
    """Return the limits of an exec: the description's own, or else those that the container's programs inherit."""
    found = {number: (soft, hard) for number, soft, hard in inherited}
    for one in process.get("rlimits") or ():
        found[getattr(resource, one["type"])] = (_limit(one["soft"]), _limit(one["hard"]))
    return [(number, soft, hard) for number, (soft, hard) in found.items()]


def _limit(value: int) -> int:
    """Return a limit in Python's form: the specification writes "no limit" as the highest 64-bit number."""
    return -1 if value >= 2**63 else value


def label(process: Mapping[str, Any]) -> str:
    """Return the AppArmor profile or the SELinux context of the description; "" for none."""
    found = str(process.get("apparmorProfile") or process.get("selinuxLabel") or "")
    return "" if found == UNCONFINED else found
