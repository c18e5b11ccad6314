"""A real Slurm on this machine, for an embedded cluster: each node in a network namespace of its own.

Owns the network (a bridge with the machine's end, a link to each node), munged, slurmctld, one slurmd a node, and
their files below ``DIR/slurm``. What it makes it removes; nothing is written outside the cluster's directory, and the
names of the nodes are known only to the processes started here. Needs root and Debian's packages :data:`PACKAGES`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arv_ssh.cli import daemons
from arv_ssh.cli.cluster_dir import ClusterDir, write_private
from arv_ssh.errors import ArvSshError, ConfigError, UsageError
from arv_ssh.processes import process_lock

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "nsenter", "unshare", "setpriv")
MOST_NODES = 64
PATIENCE = 60.0
"""Seconds for Slurm to have all nodes, and for containers' jobs to end; on a loaded machine of 2 cores it takes 5."""
SITE = "site.conf"
"""A file below ``DIR/slurm`` with lines of slurm.conf that a person wants otherwise, read at each start."""
NODE_MEMORY, NODE_DISK = 4000, 10000
"""What Slurm believes that a node has, in MB, beside this machine's processors: nodes share the machine."""
SLURMD_TIMEOUT = 20
"""Seconds of silence after which Slurm gives a node up: short, so that trials show it."""

# slurmctld and slurmd close all descriptors that they inherit, so a shell holds the lock file, and takes them with it.
_HOLDER = (
    'setpriv --pdeathsig KILL "$@" & child=$!; trap "kill -TERM $child" TERM; wait $child; status=$?; '
    "wait $child 2>/dev/null; exit $status"
)
_WITH_NAMES = 'mount --bind "$0" /etc/hosts && exec "$@"'

_CONFIG = """\
ClusterName=arv-ssh
SlurmctldHost={host}({address})
SlurmctldPort={port}
SlurmdPort=6818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={munge}
CredType=cred/munge
StateSaveLocation={directory}/ctld
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory,CR_LLN
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
PropagateResourceLimits=NONE
ReturnToService=2
SlurmdTimeout={timeout}
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,batch_sched_delay=1
KillWait=30
NodeName=n[1-{number}] NodeAddr={network}.[{first}-{last}] NodeHostname={host} CPUs={cpus} RealMemory={memory} \
TmpDisk={disk}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_READY = ("idle", "mixed", "allocated", "completing", "drained", "draining")
"""The states of nodes whose slurmd answers (sinfo(1)); a star after them would say that it does not."""
_FIRST = 11
"""The last number of the first node's address."""


@dataclass(frozen=True)
class SlurmNodes:
    """The Slurm of the cluster in ``directory``: ``number`` nodes in ``network``, an address' first three numbers.

    ``port`` is slurmctld's.
    """

    directory: ClusterDir
    number: int
    network: str
    port: int

    @property
    def root(self) -> Path:
        """Return where its files are."""
        return self.directory.root / "slurm"

    @property
    def address(self) -> str:
        """Return the machine's address, which the nodes reach."""
        return f"{self.network}.1"

    @property
    def bridge(self) -> str:
        """Return the name of the bridge."""
        return f"arvs{self.network.rpartition('.')[2]}"

    @property
    def is_running(self) -> bool:
        """Say whether its slurmctld runs."""
        return process_lock.is_held(self._lock("slurmctld"))

    @property
    def environment(self) -> dict[str, str]:
        """Return what a program of Slurm's needs to find this one."""
        return {"SLURM_CONF": str(self.root / "slurm.conf")}

    def names(self) -> list[str]:
        """Return the nodes' names."""
        return [f"n{index}" for index in range(1, self.number + 1)]

    def namespace(self, node: str) -> str:
        """Return the name of a node's network namespace."""
        return f"{self.bridge}{node}"

    def section(self) -> dict[str, Any]:
        """Return the keys of ``Containers`` for the dispatcher."""
        environment = self.environment | {"SSL_CERT_FILE": str(self.directory.ca)}
        return {
            "CrunchRunCommand": str(daemons.program("crunch-run")),
            "SLURM": {"PollInterval": 1, "SbatchEnvironmentVariables": environment},
        }

    def with_names(self, arguments: Sequence[str]) -> list[str]:
        """Return the command line that runs ``arguments`` where the nodes' names have addresses."""
        inside = ["/bin/sh", "-c", _WITH_NAMES, str(self.root / "hosts"), *arguments]
        return ["unshare", "--mount", "--propagation", "slave", *inside]

    def start(self) -> None:
        """Start what does not run, and wait until every node is there."""
        _check()
        self._write()
        self._make_network()
        munge = self.root / "munge"
        self._start("munged", [
            "munged", "--foreground", "--force", f"--key-file={munge}/key", f"--socket={munge}/socket",
            f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed",
        ])  # fmt: skip
        _wait(lambda: (munge / "socket").exists(), "munged's socket")
        self._start("slurmctld", ["slurmctld", "-D"])
        for node in self.names():
            self.start_node(node)
        _wait(lambda: self._ready() == self.number, f"Slurm to have {self.number} nodes; see {self.directory.log}")

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        _ip("-n", self.namespace(node), "link", "set", "eth0", "up")
        inside = ["nsenter", f"--net=/run/netns/{self.namespace(node)}", *self.with_names(["slurmd", "-D", "-N", node])]
        self._start(f"slurmd-{node}", inside)

    def kill_node(self, node: str) -> None:
        """Cut a node's link and kill everything in its namespace, as a power cut does: nobody gets a last packet."""
        _ip("-n", self.namespace(node), "link", "set", "eth0", "down")
        deadline = time.monotonic() + PATIENCE
        while pids := _ip("netns", "pids", self.namespace(node)).split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            if time.monotonic() > deadline:
                raise ArvSshError(f"processes {', '.join(pids)} of node {node} do not end")
            time.sleep(0.05)

    def stop(self) -> None:
        """End everything, jobs included, and remove the network."""
        if self.is_running:
            self._cancel_jobs()
        for name in [*(f"slurmd-{node}" for node in self.names()), "slurmctld", "munged"]:
            process_lock.end(self._lock(name), daemons.STOP_GRACE)
        namespaces = _ip("netns", "list").split()
        for node in self.names():
            if self.namespace(node) in namespaces:
                self.kill_node(node)
                _ip("netns", "delete", self.namespace(node))
        if Path(f"/sys/class/net/{self.bridge}").exists():
            _ip("link", "delete", self.bridge)

    def jobs(self) -> int:
        """Return how many jobs wait or run."""
        return len(self._slurm("squeue", "--noheader", "--all", "--format=%i").split())

    def _cancel_jobs(self) -> None:
        with suppress(ArvSshError):
            self._slurm("scancel", "--user=root")
            _wait(lambda: not self.jobs(), "jobs to end")

    def _ready(self) -> int:
        try:
            lines = self._slurm("sinfo", "--noheader", "--all", "--Node", "--format=%N %T").splitlines()
        except ArvSshError:
            return 0
        ready = {tuple(line.split()) for line in lines if line.split()[-1] in _READY}
        return len({node for node, _ in ready})

    def _slurm(self, *arguments: str) -> str:
        done = subprocess.run(  # noqa: S603 - Slurm's programs
            arguments, capture_output=True, text=True, timeout=PATIENCE, env=os.environ | self.environment
        )
        if done.returncode:
            raise ArvSshError(f"{arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout

    def _lock(self, name: str) -> Path:
        return self.directory.run / f"{name}.lock"

    def _start(self, name: str, arguments: list[str]) -> None:
        if process_lock.is_held(self._lock(name)):
            return
        environ = daemons.environment(PATH=_path(), **self.environment)
        holder = ["/bin/sh", "-c", _HOLDER, "sh", *arguments]
        daemons.start(self._lock(name), holder, self.directory.log / f"{name}.log", environ)

    def _write(self) -> None:
        munge = self.root / "munge"
        for path in (self.root, self.root / "ctld", munge):
            path.mkdir(mode=0o700, exist_ok=True)
        if not (munge / "key").exists():
            write_private(munge / "key", secrets.token_bytes(128))
        host = socket.gethostname().partition(".")[0]
        config = _CONFIG.format(
            host=host, port=self.port, address=self.address, munge=munge / "socket", directory=self.root,
            number=self.number,
            network=self.network, first=_FIRST, last=_FIRST + self.number - 1, timeout=SLURMD_TIMEOUT,
            cpus=os.cpu_count(), memory=NODE_MEMORY, disk=NODE_DISK,
        )  # fmt: skip
        write_private(self.root / "slurm.conf", _changed(config, self.root / SITE))
        lines = [f"{self._node_address(node)} {node}" for node in self.names()]
        hosts = Path("/etc/hosts").read_text(encoding="utf-8")
        (self.root / "hosts").write_text("\n".join([hosts.rstrip("\n"), *lines, ""]), encoding="utf-8")

    def _node_address(self, node: str) -> str:
        return f"{self.network}.{_FIRST - 1 + int(node[1:])}"

    def _make_network(self) -> None:
        if not Path(f"/sys/class/net/{self.bridge}").exists():
            _ip("link", "add", self.bridge, "type", "bridge")
            _ip("address", "add", f"{self.address}/24", "dev", self.bridge)
            _ip("link", "set", self.bridge, "up")
        there = _ip("netns", "list").split()
        for node in self.names():
            if (name := self.namespace(node)) not in there:
                _ip("netns", "add", name)
                _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
                _ip("link", "set", name, "master", self.bridge, "up")
                _ip("-n", name, "address", "add", f"{self._node_address(node)}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    _ip("-n", name, "link", "set", device, "up")


def plan(directory: ClusterDir, number: int | None) -> SlurmNodes:
    """Return the cluster's Slurm, as it was at its first start, or with ``number`` nodes if this is the first."""
    if number is not None and not 1 <= number <= MOST_NODES:
        raise UsageError(f"--nodes {number}: it must be a whole number from 1 to {MOST_NODES}")
    found = load(directory)
    if found is None:
        found = SlurmNodes(directory, number or 2, _free_network(), _free_port())
        found.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = {"number": found.number, "network": found.network, "port": found.port}
        write_private(_plan_file(directory), json.dumps(kept))
    elif number not in (None, found.number):
        raise UsageError(f"the cluster in {directory.root} has {found.number} nodes; give another directory with --dir")
    return found


def load(directory: ClusterDir) -> SlurmNodes | None:
    """Return the Slurm of a cluster that has one."""
    try:
        fields = json.loads(_plan_file(directory).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return SlurmNodes(directory, int(fields["number"]), str(fields["network"]), int(fields["port"]))


def _changed(config: str, site: Path) -> str:
    """Return slurm.conf with the lines of ``site``, if there is one: each takes the place of those with its key."""
    lines = site.read_text(encoding="utf-8").splitlines() if site.exists() else []
    keys = {line.partition("=")[0] for line in lines} - {"NodeName", "PartitionName"}
    kept = [line for line in config.splitlines() if line.partition("=")[0] not in keys]
    return "\n".join([*kept, *lines, ""])


def _plan_file(directory: ClusterDir) -> Path:
    return directory.root / "slurm" / "plan.json"


def _check() -> None:
    if os.geteuid() != 0:
        raise ConfigError("--scheduler slurm makes network namespaces, which needs root")
    missing = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} is missing; install it (in Debian: apt-get install --no-install-recommends "
            f"{' '.join(PACKAGES)})"
        )


def _path() -> str:
    """Return where programs are: the daemons' place is not in every PATH."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _free_network() -> str:
    """Return a network of RFC 2544's that this machine does not use."""
    used = _ip("-4", "-o", "address", "show")
    free = [f"198.18.{number}" for number in range(256) if f" 198.18.{number}." not in used]
    return secrets.choice(free)


def _free_port() -> int:
    """Return a port for slurmctld, which listens at all of the machine's addresses."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _ip(*arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            ["ip", *arguments],  # noqa: S607 - of the administrator's PATH
            capture_output=True, text=True, timeout=PATIENCE, env=os.environ | {"PATH": _path()},
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(f"cannot execute ip: {error.strerror}; install it (in Debian: iproute2)") from error
    if done.returncode:
        raise ArvSshError(f"ip {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout


def _wait(look: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not look():
        if time.monotonic() > deadline:
            raise ArvSshError(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(0.1)
