"""The Slurm of an embedded cluster: what is refused before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from arv_ssh.cli import cluster_slurm, cluster_up
from arv_ssh.cli.cluster_dir import ClusterDir
from arv_ssh.errors import ConfigError, UsageError


@pytest.fixture
def directory(tmp_path: Path) -> ClusterDir:
    result = ClusterDir(tmp_path)
    result.prepare()
    return result


@pytest.mark.parametrize("number", [0, -1, 65])
def test_the_number_of_nodes(directory: ClusterDir, number: int) -> None:
    """A number that makes no sense is refused, and leaves nothing."""
    with pytest.raises(UsageError, match=f"--nodes {number}: it must be a whole number from 1 to 64"):
        cluster_slurm.plan(directory, number)
    assert cluster_slurm.load(directory) is None


def test_nodes_without_slurm(directory: ClusterDir) -> None:
    """Nodes are Slurm's alone."""
    with pytest.raises(UsageError, match="--nodes is for --scheduler slurm"):
        cluster_up.up(directory, None, 3)


def test_a_cluster_keeps_its_plan(directory: ClusterDir) -> None:
    """Network, port and number of nodes stay what they were at the first start; another number is refused."""
    first = cluster_slurm.plan(directory, 3)
    assert cluster_slurm.plan(directory, None) == cluster_slurm.plan(directory, 3) == first
    assert first.names() == ["n1", "n2", "n3"]
    with pytest.raises(UsageError, match="has 3 nodes; give another directory with --dir"):
        cluster_slurm.plan(directory, 4)


def test_lines_of_a_sites_own(tmp_path: Path) -> None:
    """A line of site.conf takes the place of the one with its key; nodes and partitions come in addition."""
    config = "SlurmPort=1\nKillWait=30\nPartitionName=main Nodes=ALL\n"
    assert cluster_slurm._changed(config, tmp_path / "site.conf") == config
    (tmp_path / "site.conf").write_text("KillWait=5\nPartitionName=low Nodes=ALL\n")
    assert cluster_slurm._changed(config, tmp_path / "site.conf") == (
        "SlurmPort=1\nPartitionName=main Nodes=ALL\nKillWait=5\nPartitionName=low Nodes=ALL\n"
    )


def test_another_scheduler(directory: ClusterDir) -> None:
    """A cluster without Slurm does not get one, and the other way round."""
    cluster_slurm.plan(directory, 1)
    with pytest.raises(UsageError, match="has the scheduler slurm; give another --dir"):
        cluster_up.up(directory, "local", None)
    other = ClusterDir(directory.root / "other")
    other.prepare()
    other.config.write_text("{}")
    with pytest.raises(UsageError, match="has the scheduler local; give another --dir"):
        cluster_up.up(other, "slurm", None)


def test_missing_programs(directory: ClusterDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named, with the packages that have it."""
    monkeypatch.setattr(cluster_slurm, "PROGRAMS", ("slurmctld-of-nobody",))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(ConfigError, match="slurmctld-of-nobody is missing; install it .*slurmctld slurmd"):
        cluster_slurm.plan(directory, 1).start()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="needs root"):
        cluster_slurm.plan(directory, 1).start()
