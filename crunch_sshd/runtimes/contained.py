"""A contained process's user, limits and environment, so that another process beside it can be given the same.

Owns reading /proc/PID for that, and refusing where a restriction on the contained process cannot be put on another
process. Ids are those inside the process's user namespace, except in :attr:`Contained.outside`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arv_ssh.errors import Unavailable
from crunch_sshd.runtimes.confinement import CAPABILITY_SETS, Confinement, after_execve
from crunch_sshd.runtimes.host_container import SECCOMP_OFF, HostContainer

if TYPE_CHECKING:
    from crunch_sshd.runtimes import Account

@dataclass(frozen=True)
class Ids:
    """A user, its group and its supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True)
class Contained:
    """A process's credentials. ``inside`` are the ids in its user namespace, ``outside`` the same in ours."""

    inside: Ids
    outside: Ids
    capabilities: dict[str, int]
    no_new_privs: bool
    umask: int


class ContainedProcess(HostContainer):
    """The contained process with the pid ``pid``; users know its container as ``name``.

    Everything read may have changed since the last time: a process can give up more and more, and so do its sessions.
    """

    def __init__(self, pid: int, name: str) -> None:
        self._name = name
        super().__init__(pid)

    def credentials(self) -> Contained:
        """Return the process's credentials now; raise :class:`Unavailable` when no other process can have the same."""
        lines = self.read_process("status").decode("utf-8", "replace").splitlines()
        fields = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._check_filters(fields)
        outside = Ids(self._one(fields["Uid"]), self._one(fields["Gid"]), _numbers(fields.get("Groups", "")))
        return Contained(
            self._inside(outside),
            outside,
            {name: int(fields.get(name, "0"), 16) for name in CAPABILITY_SETS},
            fields.get("NoNewPrivs", "0") != "0",
            int(fields.get("Umask", "022"), 8),
        )

    def _check_filters(self, status: dict[str, str]) -> None:
        if status.get("Seccomp", SECCOMP_OFF) != SECCOMP_OFF:
            raise Unavailable(
                f"container {self._name} runs under a seccomp filter, which Linux cannot put on a session too, and a "
                "session without it would be allowed more; use the runtime docker or oci, or start the container "
                "without the filter"
            )
        label = self.label()
        if label:
            raise Unavailable(
                f"container {self._name} runs under the security label {label!r}, which the runtime namespace does not "
                "put on a session; use the runtime docker or oci"
            )

    def _one(self, field: str) -> int:
        """Return the id that real, effective, saved and file system id have in common."""
        found = set(_numbers(field))
        if len(found) != 1:
            raise Unavailable(
                f"process {self.pid} of container {self._name} runs with the ids of two users at once; name the "
                "contained program itself, which has ids of its own only"
            )
        return found.pop()

    def _inside(self, outside: Ids) -> Ids:
        uids, gids = (self.read_process(name).decode("ascii") for name in ("uid_map", "gid_map"))
        uid, gid = _mapped(uids, outside.uid), _mapped(gids, outside.gid)
        if uid is None or gid is None:
            raise Unavailable(f"the user of container {self._name} has no id in its own user namespace")
        groups = (_mapped(gids, one) for one in outside.groups)
        return Ids(uid, gid, tuple(one for one in groups if one is not None))

    def groups_outside(self, groups: Sequence[int]) -> list[int]:
        """Return the process's own groups, including those that its user namespace has no id for."""
        return list(self.credentials().outside.groups)

    def capabilities(self, uid: int) -> dict[str, int]:
        """Return the sets of a program executed beside the process: never a capability that it has given up itself."""
        sets = dict(self.credentials().capabilities)
        if uid == 0:
            # A root program starts with all of these two sets; allow no more than the contained process has itself.
            for name in ("CapInh", "CapBnd"):
                sets[name] &= sets["CapPrm"]
        return sets

    def confinement(self, account: Account) -> Confinement:
        """Return the process's own restrictions: no other user can log in here."""
        found = self.credentials()
        return Confinement(
            found.inside.uid,
            found.inside.gid,
            found.outside.groups,
            after_execve(self.capabilities(found.inside.uid), found.inside.uid),
            found.umask,
            self.limits(),
            self.out_of_memory_score(),
            "",
        )

    def environment(self) -> dict[bytes, bytes]:
        """Return the environment that the process was started with."""
        words = (word.partition(b"=") for word in self.read_process("environ").split(b"\0"))
        return {name: value for name, equals, value in words if name and equals}

    def working_directory(self) -> str:
        """Return where the process is, as a path inside its root."""
        path, root = super().working_directory(), self.root_path().rstrip("/")
        return path[len(root) :] if path.startswith(f"{root}/") else "/"


def _numbers(field: str) -> tuple[int, ...]:
    return tuple(int(word) for word in field.split())


def _mapped(id_map: str, outside: int) -> int | None:
    """Return the id inside, from the text of /proc/PID/uid_map (user_namespaces(7)) as our namespace sees it."""
    for line in id_map.splitlines():
        inside, first, count = _numbers(line)
        if first <= outside < first + count:
            return inside + outside - first
    return None
