"""What the kernel writes in /proc, with names in it that a container chose."""

from __future__ import annotations

from crunch_sshd.runtimes import control_groups
from tests.fuzz.harness import Choices, Target


def groups(data: bytes) -> None:
    """Mounts and memberships that the kernel wrote are read as they were, whatever their names have in them."""
    choices = Choices(data)
    expected, lines = [], list[str]()
    while choices and len(lines) < 20:
        root, point = ("/" + choices.string().decode("latin-1").replace("\0", "") for _ in range(2))
        first = choices.byte() & 1
        controllers = frozenset(("memory", "rw")) if first else frozenset()
        expected.append(control_groups.Mount(controllers, root, point))
        kind = "cgroup cgroup memory,rw" if first else "cgroup2 cgroup rw"
        lines.append(f"30 20 0:1 {_escaped(root)} {_escaped(point)} rw shared:1 - {kind}")
    text = "\n".join(lines)
    assert control_groups.mounts(text) == tuple(expected)
    name = "/" + choices.string().decode("latin-1").replace("\n", "").replace("\0", "")
    assert control_groups.memberships(f"4:memory:{name}\n0::{name}\n") == {"memory": name, "": name}
    for mount in expected:
        path = control_groups.group_directory("memory" if mount.controllers else "", name, [mount])
        assert path is None or path.startswith(mount.point)


def _escaped(text: str) -> str:
    return "".join(f"\\{ord(one):03o}" if one in " \t\n\\" else one for one in text)


TARGETS = (Target("control-groups", groups.__doc__ or "", groups),)
