"""Two clusters side by side: a UUID, or a name, picks the settings by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.integration.account import Account, new_account
from tests.integration.embedded_cluster import EmbeddedCluster

OTHER = "yyyyy"
"""The id of the second cluster; that of every embedded one is zzzzz, unless its config says another."""


@dataclass(frozen=True)
class Place:
    """A container that runs, of a request called job, on one of the clusters."""

    cluster: EmbeddedCluster
    uuid: str
    request: str


def start(root: Path, cluster_id: str) -> EmbeddedCluster:
    """Start an embedded cluster with the given id."""
    made = EmbeddedCluster(root)
    made.up()
    if cluster_id != "zzzzz":
        made.down()
        config = yaml.safe_load(made.directory.config.read_text())
        (section,) = config["Clusters"].values()
        section["EmbeddedAPI"]["Database"] = f"sqlite:///{root}/other.sqlite"
        made.directory.config.write_text(yaml.safe_dump({"Clusters": {cluster_id: section}}))
        made.up()
    return made


def run_job(cluster: EmbeddedCluster) -> Place:
    """Run a container on it, whose request is called job."""
    uuid = cluster.run("sleep", "1000000")
    request = cluster.api().list("container_requests", filters=[["container_uuid", "=", uuid]])["items"][0]["uuid"]
    change(cluster, request, name="job")
    return Place(cluster, uuid, request)


def change(cluster: EmbeddedCluster, request: str, **attributes: str | int) -> None:
    """Change a request as the user who submitted it: it would be another's otherwise."""
    token = cluster.directory.token_file("active").read_text().strip()
    cluster.api().with_token(token).update("container_requests", request, attributes)


@pytest.fixture(scope="module")
def places(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Place]]:
    """A job on each cluster."""
    other = start(tmp_path_factory.mktemp("other") / "cluster", OTHER)
    try:
        yield {"zzzzz": run_job(cluster), OTHER: run_job(other)}
    finally:
        other.down()


@pytest.fixture
def account(places: dict[str, Place]) -> Iterator[Account]:
    """An account with default settings for the first cluster, and a file of its own for the second."""
    with new_account() as made:
        made.settle(places["zzzzz"].cluster.directory)
        made.settle(places[OTHER].cluster.directory, f"{OTHER}.conf")
        yield made


def hostname(account: Account, host: str) -> str:
    """Return the name of the container that ``ssh host`` leads to, which is its UUID."""
    done = account.ssh(host, "hostname")
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


def test_one_block(account: Account, places: dict[str, Place]) -> None:
    """With one block for all, UUIDs lead to their own cluster, and a name where it says."""
    assert account.client("ssh-config", "--install").returncode == 0
    for place in places.values():
        assert hostname(account, place.uuid) == hostname(account, place.request) == place.uuid
    assert hostname(account, "job.arv") == hostname(account, "JOB.arv") == places["zzzzz"].uuid
    assert hostname(account, f"job.{OTHER}.arv") == places[OTHER].uuid


def test_a_block_each(account: Account, places: dict[str, Place]) -> None:
    """Blocks of single clusters stand beside each other, each with settings from a file of any name."""
    file = account.home / "elsewhere"
    (account.home / ".config" / "arvados" / f"{OTHER}.conf").rename(file)
    assert account.client("ssh-config", "--install", "--cluster", OTHER, "--settings", str(file)).returncode == 0
    assert account.client("ssh-config", "--install").returncode == 0
    for name in (OTHER, "zzzzz"):
        assert hostname(account, places[name].uuid) == places[name].uuid
    assert hostname(account, "job.arv") == places["zzzzz"].uuid
    assert hostname(account, f"job.{OTHER}.arv") == places[OTHER].uuid


def test_ls(account: Account, places: dict[str, Place]) -> None:
    """ls lists where the default settings lead, or a cluster by its id."""
    for options, name in (([], "zzzzz"), (["--cluster", OTHER], OTHER)):
        listed = json.loads(account.client("ls", "--json", *options).stdout)
        assert places[name].uuid in [row["uuid"] for row in listed]
        assert {row["uuid"][:5] for row in listed} == {name}


def test_other_clusters_uuid(account: Account, places: dict[str, Place]) -> None:
    """Without settings for a UUID's cluster the line says which cluster is meant and where its settings go."""
    (account.home / ".config" / "arvados" / f"{OTHER}.conf").unlink()
    done = account.client("shell", places[OTHER].uuid, "true")
    assert (done.returncode, done.stderr.count(b"\n")) == (255, 1)
    assert f"container {places[OTHER].uuid} belongs to cluster {OTHER}, but the token for " in done.stderr.decode()
    settings = f"{account.home}/.config/arvados/{OTHER}.conf"
    assert f" belongs to cluster zzzzz; put the settings of {OTHER} into {settings}" in done.stderr.decode()


def test_same_name_twice(account: Account, places: dict[str, Place]) -> None:
    """Of two that run under one name the newest is entered and the other named; what begins two names is refused."""
    assert account.client("ssh-config", "--install").returncode == 0
    newer = run_job(places["zzzzz"].cluster)
    done = account.ssh("job.arv", "hostname")
    assert done.stdout.decode().strip() == newer.uuid
    said = f"arvados-client: job.arv is {newer.request}, the newest of 2 that are running;"
    assert done.stderr.decode().startswith(said)
    assert places["zzzzz"].request in done.stderr.decode()
    change(newer.cluster, newer.request, name="job two")
    done = account.ssh("jo.arv", "true")
    assert done.returncode == 255
    first = done.stderr.decode().splitlines()[0]
    assert first.startswith("arvados-client: jo.arv could be any of ")
    assert newer.request in first and places["zzzzz"].request in first and "give more of the name" in first
    change(newer.cluster, newer.request, priority=0)
    newer.cluster.wait_for_state(newer.uuid, "Cancelled")


def test_no_account_settings(places: dict[str, Place]) -> None:
    """An empty account is told what to set, at the installation and by ssh."""
    with new_account() as empty:
        done = empty.client("ssh-config", "--install")
        assert done.returncode == 0
        assert b"installed, but there are no host names to complete yet: ARVADOS_API_HOST is not set" in done.stderr
        done = empty.ssh(places[OTHER].uuid, "true")
        assert done.stderr.startswith(b"arvados-client: ARVADOS_API_HOST is not set (")
