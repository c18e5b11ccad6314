"""The control groups of a process (cgroups(7)), version 1 and 2, and how another process joins them.

Owns the way from /proc/PID/cgroup to the ``cgroup.procs`` files under this host's mounts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from arv_ssh.errors import Unavailable

FREEZER = "freezer"
"""Version 1's controller that can freeze; in version 2 every group can."""
FROZEN_1 = {"freezer.state": {"FROZEN", "FREEZING"}}
FROZEN_2 = {"cgroup.freeze": {"1"}, "cgroup.events": {"frozen 1"}}
"""A frozen group's files and their lines; version 2's for the group alone, and including its parents."""


@dataclass(frozen=True)
class Mount:
    """A mounted hierarchy: its controllers (empty for version 2), the group at its root, and where it is."""

    controllers: frozenset[str]
    root: str
    point: str


def memberships(cgroup: str) -> dict[str, str]:
    """Return hierarchy → group from the text of /proc/PID/cgroup; the hierarchy of version 2 is called ""."""
    fields = (line.split(":", 2) for line in cgroup.split("\n") if line.count(":") >= 2)
    return {controllers: path for _, controllers, path in fields}


def mounts(mountinfo: str) -> list[Mount]:
    """Return the hierarchies in the text of /proc/self/mountinfo (proc(5))."""
    found = []
    for line in mountinfo.split("\n"):  # splitlines would cut at characters that names may have
        if " - cgroup" not in line:  # no name has a space here
            continue
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            controllers = frozenset(options.split(",")) if kind == "cgroup" else frozenset()
            root, point = (_unescaped(word) for word in left.split(" ")[3:5])
            found.append(Mount(controllers, root, point))
    return found


def is_frozen(theirs: Mapping[str, str], mounted: list[Mount]) -> bool:
    """Say whether one of the groups ``theirs`` is frozen, or about to be (cgroups(7), "freezer")."""
    for hierarchy, group in theirs.items():
        if hierarchy and FREEZER not in hierarchy.split(","):
            continue
        directory = group_directory(hierarchy, group, mounted)
        if directory is None:
            continue
        for name, states in (FROZEN_1 if hierarchy else FROZEN_2).items():
            if states.intersection(_lines(f"{directory}/{name}")):
                return True
    return False


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []  # this hierarchy has no such file


def procs_file(hierarchy: str, group: str, mounted: list[Mount]) -> str | None:
    """Return the path of the file that moves a process into ``group``; None where the group cannot be reached."""
    directory = group_directory(hierarchy, group, mounted)
    return None if directory is None else f"{directory}/cgroup.procs"


def group_directory(hierarchy: str, group: str, mounted: list[Mount]) -> str | None:
    """Return where ``group`` is mounted; None where it cannot be reached."""
    wanted = frozenset(hierarchy.split(",")) if hierarchy else frozenset()
    for mount in mounted:
        same = wanted <= mount.controllers if wanted else not mount.controllers
        root = mount.root.rstrip("/")
        if same and ".." not in group.split("/") and (group == root or group.startswith(f"{root}/")):
            return f"{mount.point}{group[len(root) :].rstrip('/')}"
    return None


def open_others(theirs: Mapping[str, str], ours: Mapping[str, str], mounted: list[Mount]) -> list[int]:
    """Open the ``cgroup.procs`` of each group in ``theirs`` but not in ``ours``; writing "0" to one joins it.

    Raises :class:`Unavailable` when one of them cannot be joined: a session outside it would have more than the
    container has.
    """
    opened: list[int] = []
    try:
        for hierarchy, group in theirs.items():
            if group == ours.get(hierarchy):
                continue
            path = procs_file(hierarchy, group, mounted)
            if path is None:
                raise Unavailable(f"the container's control group {group} is not mounted here; start the gateway where "
                                  "the whole hierarchy is under /sys/fs/cgroup")  # fmt: skip
            try:
                opened.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
            except OSError as error:
                raise Unavailable(f"the container's control group {group} cannot be joined: {error.strerror}; "
                                  "start the gateway as root, or in that group")  from error  # fmt: skip
    except BaseException:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return opened


def _unescaped(word: str) -> str:
    """Undo mountinfo's escapes of space, tab, newline and backslash."""
    for escape, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        word = word.replace(escape, character)
    return word
