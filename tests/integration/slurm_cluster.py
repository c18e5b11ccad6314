"""An embedded cluster over a real Slurm with four nodes, each in a network namespace, for tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.cli import cluster_slurm
from arv_ssh.cli.cluster_slurm import SlurmNodes
from arv_ssh.processes import process_lock
from tests.integration.embedded_cluster import BUSYBOX, EmbeddedCluster
from tests.timing import DEADLINE, wait_for

NODES = 4
USER = "zzzzz-tpzed-xurymjxw79nv3jz"
PLAYED = ("sbatch", "squeue")
"""Programs of Slurm's that a test can play, beside the real ones."""
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
"""Where Slurm holds jobs to their memory: with control groups of version 1."""
SITE = """\
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
JobCompType=jobcomp/filetxt
JobCompLoc={completed}
PartitionName=low Nodes=ALL PriorityTier=1 PreemptMode=CANCEL
PartitionName=requeued Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""
HOLDS_MEMORY = "TaskPlugin=task/cgroup\n"
CGROUP_CONF = "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nConstrainRAMSpace=yes\n"

_START = (
    "import sys; from pathlib import Path; from arv_ssh.cli import cluster_dir, cluster_slurm; "
    "cluster_slurm.load(cluster_dir.ClusterDir(Path(sys.argv[1]))).start()"
)


class SlurmCluster(EmbeddedCluster):
    """The cluster in ``root``. Its dispatcher finds some of Slurm's programs through scripts that a test can change."""

    def __init__(self, root: Path) -> None:
        self._played = root.with_name("played")
        self._played.mkdir()
        for program in PLAYED:
            script = self._played / program
            real = shutil.which(program)
            script.write_text(f'#!/bin/sh\n[ ! -e "$0.first" ] || . "$0.first"\nexec {real} "$@"\n')
            script.chmod(0o755)
        (root / "slurm").mkdir(parents=True, mode=0o700)
        self.site = root / "slurm" / cluster_slurm.SITE
        self.site.write_text(SITE.format(completed=root / "slurm" / "completed"))
        if MEMORY_GROUPS.exists():
            (root / "slurm" / "cgroup.conf").write_text(CGROUP_CONF)
            self.site.write_text(self.site.read_text() + HOLDS_MEMORY)
        super().__init__(root, {"PATH": f"{self._played}:{os.environ['PATH']}"})

    def up(self) -> dict[str, Any]:
        """Start the cluster; return what it printed."""
        return self._json(self.arv_ssh("up", "--scheduler", "slurm", "--nodes", str(NODES), timeout=2 * DEADLINE))

    @property
    def slurm(self) -> SlurmNodes:
        """The Slurm below."""
        found = cluster_slurm.load(self.directory)
        assert found is not None
        return found

    @contextmanager
    def playing(self, program: str, first: str) -> Iterator[None]:
        """Have a program do ``first``, in sh, before it becomes the real one; until the end of the block."""
        path = self._played / f"{program}.first"
        path.write_text(first)
        try:
            yield
        finally:
            path.unlink()

    def ask(self, *arguments: str) -> str:
        """Run a program of Slurm's; return what it printed."""
        done = subprocess.run(
            arguments, capture_output=True, text=True, timeout=DEADLINE, check=True,
            env=os.environ | self.slurm.environment,
        )  # fmt: skip
        return done.stdout

    def jobs(self, uuid: str, states: str = "all") -> list[str]:
        """Return the ids of a container's jobs, the oldest first."""
        lines = self.ask("squeue", "--noheader", f"--states={states}", f"--name={uuid}", "--format=%i").split()
        return sorted(lines, key=int)

    def submit(self, *command: str, priority: int = 500, **attributes: Any) -> dict[str, Any]:
        """Submit a container request; return its record, without waiting for anything."""
        constraints = {"vcpus": 1, "ram": 300 << 20} | attributes.pop("runtime_constraints", {})
        fields = {
            "state": "Committed", "priority": priority, "container_image": BUSYBOX,
            "command": command or ["sleep", "1000"],
            "cwd": ".", "output_path": ".", "runtime_constraints": constraints, "use_existing": False,
            "modified_by_user_uuid": USER, "owner_uuid": USER, "container_count_max": 1, **attributes,
        }  # fmt: skip
        return self.api().create("container_requests", fields)

    def cancel(self, request: dict[str, Any]) -> None:
        """Set a request's priority to 0."""
        self.api().update("container_requests", request["uuid"], {"priority": 0})

    def error(self, uuid: str) -> str:
        """Return the reason that a container's record gives, once it is Cancelled."""
        return str(self.wait_for_state(uuid, "Cancelled")["runtime_status"].get("error", ""))

    def node_of(self, uuid: str) -> str:
        """Return the node on which a Running container is."""
        return str(self.container(uuid)["gateway_address"]).partition(":")[0]

    def kill_dispatcher(self) -> None:
        """Kill the dispatcher with SIGKILL."""
        lock = self.directory.dispatcher_lock
        pid = process_lock.holder_pid(lock)
        assert pid is not None
        os.kill(pid, 9)
        wait_for(lambda: not process_lock.is_held(lock))

    @contextmanager
    def changed(self, lines: str) -> Iterator[None]:
        """Have slurmctld run with more lines in slurm.conf until the end of the block, which starts the dispatcher."""
        before = self.site.read_text()
        self.stop_slurmctld()
        self.site.write_text(before + lines)
        try:
            subprocess.run([sys.executable, "-c", _START, self.directory.root], timeout=DEADLINE, check=True)
            yield
        finally:
            self.stop_slurmctld()
            self.site.write_text(before)
            self.up()

    def stop_slurmctld(self) -> None:
        """Stop slurmctld; jobs and nodes do not notice."""
        process_lock.end(self.directory.run / "slurmctld.lock", DEADLINE)

    def is_settled(self, uuid: str = "") -> bool:
        """Say whether the dispatcher has nothing left to look after, of one container or of any."""
        return not any(uuid in path.name for path in self.directory.slurm_attempts())


@contextmanager
def slurm_cluster(root: Path) -> Iterator[SlurmCluster]:
    """Run a cluster until the end of the block."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    result = SlurmCluster(root)
    result.up()
    try:
        yield result
    finally:
        result.down()
        for node in result.slurm.names():  # what slurmd leaves of its own
            for group in sorted(MEMORY_GROUPS.glob(f"slurm_{node}/**/"), reverse=True):
                with suppress(OSError):
                    group.rmdir()
