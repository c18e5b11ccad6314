"""Notices: who learns of which change, in the same process and in another."""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.api.client import ApiClient
from arv_ssh.api.in_process import InProcessAdapter
from arv_ssh.embedded import notices
from arv_ssh.embedded.api import EmbeddedApi
from tests.timing import DEADLINE
from tests.unit.arv_ssh.embedded.cluster import ROOT_TOKEN, WORK, Cluster, cluster_config

LISTENER = """
import sys, threading
from arv_ssh.embedded.api import EmbeddedApi
from tests.unit.arv_ssh.embedded.cluster import cluster_config

api = EmbeddedApi(cluster_config(sys.argv[1]))
api.listen(lambda: print("heard", flush=True))
print("listening", flush=True)
threading.Event().wait()
"""


class Ear:
    """Counts notices. The first of PostgreSQL's comes by itself, once it listens."""

    def __init__(self, api: EmbeddedApi, database: str) -> None:
        self._heard: queue.SimpleQueue[None] = queue.SimpleQueue()
        api.listen(lambda: self._heard.put(None))
        if database.startswith("postgresql"):
            self.hears()

    def hears(self) -> None:
        self._heard.get(timeout=DEADLINE)

    def is_quiet(self) -> bool:
        return self._heard.empty()


@pytest.fixture
def cluster(database: str) -> Iterator[Cluster]:
    result = Cluster.__new__(Cluster)
    result.api = EmbeddedApi(cluster_config(database))
    yield result
    result.api.close()


def submit(cluster: Cluster) -> dict[str, Any]:
    return cluster.client(ROOT_TOKEN).create("container_requests", WORK | {"use_existing": False, "priority": 1})


def test_what_concerns_a_dispatcher_is_heard(cluster: Cluster, database: str) -> None:
    """A new container, another priority, a requeued and a cancelled one are noticed; a lock and a start are not."""
    ear = Ear(cluster.api, database)
    root = cluster.client(ROOT_TOKEN)
    request = submit(cluster)
    ear.hears()
    root.lock(request["container_uuid"])
    root.unlock(request["container_uuid"])
    ear.hears()
    root.lock(request["container_uuid"])
    root.update("containers", request["container_uuid"], {"state": "Running"})
    root.update("container_requests", request["uuid"], {"name": "another"})
    assert ear.is_quiet()
    root.update("container_requests", request["uuid"], {"priority": 2})
    ear.hears()
    root.update("containers", request["container_uuid"], {"state": "Cancelled"})
    ear.hears()


def test_another_process_hears(cluster: Cluster, database: str) -> None:
    """A process that listens hears of what another one commits; one that is gone is forgotten."""
    command = [sys.executable, "-c", LISTENER, database]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            wanted = {"listening\n"} | ({"heard\n"} if database.startswith("postgresql") else set())
            assert {child.stdout.readline() for _ in wanted} == wanted
            submit(cluster)
            assert child.stdout.readline() == "heard\n"
        finally:
            child.kill()
    submit(cluster)  # the killed one's socket is still there
    submit(cluster)


def test_a_lost_connection_to_postgresql(postgresql: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose connection is cut connects again, and is told to look, since it may have missed something."""
    monkeypatch.setattr(notices, "RECONNECT_PAUSE", 0.05)
    with postgresql.database() as name:
        api = EmbeddedApi(cluster_config(postgresql.url(name)))
        ear = Ear(api, postgresql.url(name))
        postgresql.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE 'LISTEN%'"
        )
        ear.hears()
        ApiClient("https://embedded.invalid", ROOT_TOKEN, adapter=InProcessAdapter(api.handle)).create(
            "container_requests", WORK | {"use_existing": False}
        )
        ear.hears()
        api.close()


def test_a_listener_that_leaves_meanwhile(tmp_path: Path) -> None:
    """Somebody who stops listening while the others are told keeps the notice from nobody."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        notices._tell(sender, str(tmp_path / "gone"))
