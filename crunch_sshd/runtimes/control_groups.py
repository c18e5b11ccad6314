"""The control groups of a process (cgroups(7)), version 1 and 2, and how another process joins them.

Owns the way from /proc/PID/cgroup to the files under this host's mounts. A process with one thread moves itself by
:class:`Doors`; to move another, the kernel has to stop all forks of this host first, and that takes some 10 ms.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from arv_ssh.errors import Unavailable

FREEZER = "freezer"
FROZEN_1 = {"freezer.state": {"FROZEN", "FREEZING"}}
FROZEN_2 = {"cgroup.freeze": {"1"}, "cgroup.events": {"frozen 1"}}
"""A frozen group's files and their lines, in the two versions. In version 2, the group's own and its parents' too."""
PROCESSES, TASKS = "cgroup.procs", "tasks"


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


@lru_cache(maxsize=1)
def mounts(mountinfo: str) -> tuple[Mount, ...]:
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
    return tuple(found)


def is_frozen(theirs: Mapping[str, str], mounted: Sequence[Mount]) -> bool:
    """Say whether one of the groups ``theirs`` is frozen, or about to be (cgroups(7), "freezer")."""
    for hierarchy, group in theirs.items():
        if hierarchy and FREEZER not in hierarchy.split(","):
            continue  # what freezes is none of this hierarchy's
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


def group_directory(hierarchy: str, group: str, mounted: Sequence[Mount]) -> str | None:
    """Return where ``group`` is mounted; None where it cannot be reached."""
    wanted = frozenset(hierarchy.split(",")) if hierarchy else frozenset()
    for mount in mounted:
        same = wanted <= mount.controllers if wanted else not mount.controllers
        root = mount.root.rstrip("/")
        if same and ".." not in group.split("/") and (group == root or group.startswith(f"{root}/")):
            return f"{mount.point}{group[len(root) :].rstrip('/')}"
    return None


def others(theirs: Mapping[str, str], ours: Mapping[str, str], mounted: Sequence[Mount]) -> dict[str, str]:
    """Return hierarchy → directory of each group in ``theirs`` but not in ``ours``.

    Raises :class:`Unavailable` when one of them is out of reach: a session outside it would have more than the
    container has.
    """
    found = {}
    for hierarchy, group in theirs.items():
        if group == ours.get(hierarchy):
            continue
        directory = group_directory(hierarchy, group, mounted)
        if directory is None:
            raise Unavailable(f"the container's control group {group} is not mounted here; start the gateway where "
                              "the whole hierarchy is under /sys/fs/cgroup")  # fmt: skip
        found[hierarchy] = directory
    return found


@dataclass(frozen=True)
class Doors:
    """What a process with one thread needs to join groups without a wait.

    ``doors`` are the open ``tasks`` files of version 1, to write "0" to; ``unified`` is the open directory of
    version 2, where a process can be born (CLONE_INTO_CGROUP, clone(2)). Neither needs the lock that the kernel takes
    to move a process by its pid, or by "0" in ``cgroup.procs``.
    """

    doors: list[int]
    unified: int | None


def open_doors(directories: Mapping[str, str]) -> Doors:
    """Open the doors to groups, given as hierarchy → directory. Raises :class:`Unavailable` as the above."""
    tasks = _all_opened(f"{directory}/{TASKS}" for hierarchy, directory in directories.items() if hierarchy)
    if "" not in directories:
        return Doors(tasks, None)
    try:
        os.close(_opened(f"{directories['']}/{PROCESSES}"))  # whoever may not write to this may not be born there
        return Doors(tasks, os.open(directories[""], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except BaseException:
        _close(tasks)
        raise


def _all_opened(paths: Iterable[str]) -> list[int]:
    opened: list[int] = []
    try:
        for path in paths:
            opened.append(_opened(path))
    except BaseException:
        _close(opened)
        raise
    return opened


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        group = os.path.dirname(path)
        raise Unavailable(f"the container's control group {group} cannot be joined: {error.strerror}; "
                          "start the gateway as root, or in that group") from error  # fmt: skip


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _unescaped(word: str) -> str:
    """Undo mountinfo's escapes of space, tab, newline and backslash."""
    for escape, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        word = word.replace(escape, character)
    return word
