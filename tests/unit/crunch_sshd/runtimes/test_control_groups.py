"""Control groups: from the kernel's texts to the files that move a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arv_ssh.errors import Unavailable
from crunch_sshd.runtimes import control_groups
from crunch_sshd.runtimes.control_groups import Mount

HYBRID = """9:name=systemd:/docker/abc
4:cpu,cpuacct:/docker/abc
0::/docker/a:b
"""
MOUNTINFO = r"""30 25 0:26 / /sys/fs/cgroup ro shared:4 - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:6 - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 /docker /sys/fs/cgroup/cpu\040acct rw - cgroup cgroup rw,cpu,cpuacct
"""


def test_memberships() -> None:
    """A process is in one group of each hierarchy; version 2 has no name, and a group's may have colons."""
    assert control_groups.memberships(HYBRID) == {
        "name=systemd": "/docker/abc", "cpu,cpuacct": "/docker/abc", "": "/docker/a:b",
    }  # fmt: skip


def test_mounts() -> None:
    """Each mounted hierarchy is known by its controllers; escapes in its place are undone."""
    points = [mount.point for mount in control_groups.mounts(MOUNTINFO)]
    assert points == ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/cpu acct"]


@pytest.mark.parametrize(("hierarchy", "group", "path"), [
    ("", "/docker/abc", "/sys/fs/cgroup/unified/docker/abc"),
    ("", "/", "/sys/fs/cgroup/unified"),
    ("name=systemd", "/docker/abc", "/sys/fs/cgroup/systemd/docker/abc"),
    ("cpu,cpuacct", "/docker/abc", "/sys/fs/cgroup/cpu acct/abc"),
    ("cpu,cpuacct", "/dockers/abc", None),
    ("cpu,cpuacct", "/other", None),
    ("memory", "/docker/abc", None),
    ("", "/../outside", None),
])  # fmt: skip
def test_group_directory(hierarchy: str, group: str, path: str | None) -> None:
    """A group is found below the mount that shows it, and nowhere when none does."""
    assert control_groups.group_directory(hierarchy, group, control_groups.mounts(MOUNTINFO)) == path


def test_others() -> None:
    """Only groups that differ count; one that is out of reach is refused."""
    mounted = [Mount(frozenset({"memory"}), "/", "/groups")]
    assert control_groups.others({"memory": "/a"}, {"memory": "/a"}, mounted) == {}
    assert control_groups.others({"memory": "/a", "": "/x"}, {"memory": "/", "": "/x"}, mounted) == {
        "memory": "/groups/a"
    }
    with pytest.raises(Unavailable, match="/c is not mounted here"):
        control_groups.others({"memory": "/a", "pids": "/c"}, {}, mounted)


def test_opening(tmp_path: Path) -> None:
    """A group that cannot be joined is refused, and nothing stays open."""
    for name in ("cgroup.procs", "tasks"):
        (tmp_path / name).touch()
    before = os.listdir("/proc/self/fd")
    here, gone = str(tmp_path), str(tmp_path / "b")
    for other in ("pids", ""):
        with pytest.raises(Unavailable, match="/b cannot be joined: No such file"):
            control_groups.open_doors({"memory": here, other: gone})
    assert os.listdir("/proc/self/fd") == before
    doors = control_groups.open_doors({"memory": here, "": here})
    opened = [*doors.doors, doors.unified]
    names = [os.path.basename(os.readlink(f"/proc/self/fd/{one}")) for one in opened]
    assert names == ["tasks", tmp_path.name]
    for one in opened:
        assert one is not None
        os.close(one)


@pytest.mark.parametrize(("name", "content", "frozen"), [
    ("freezer.state", "FROZEN\n", True), ("freezer.state", "FREEZING\n", True), ("freezer.state", "THAWED\n", False),
    ("cgroup.freeze", "1\n", True), ("cgroup.freeze", "0\n", False),
    ("cgroup.events", "populated 1\nfrozen 1\n", True), ("cgroup.events", "populated 1\nfrozen 0\n", False),
])  # fmt: skip
def test_is_frozen(tmp_path: Path, name: str, content: str, frozen: bool) -> None:
    """A paused container is known by the files of either version's freezer; a hierarchy out of reach says nothing."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_text(content)
    hierarchy, other = ("cpu,freezer", "") if name == "freezer.state" else ("", "freezer")
    mounted = [Mount(frozenset(hierarchy.split(",")) if hierarchy else frozenset(), "/", str(tmp_path))]
    assert control_groups.is_frozen({hierarchy: "/a", "memory": "/a", other: "/a"}, mounted) is frozen
