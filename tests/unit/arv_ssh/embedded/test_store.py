"""The embedded API's database: what was acknowledged is kept, and writers take turns."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from arv_ssh.embedded import store as store_module
from arv_ssh.embedded.api import EmbeddedApi
from arv_ssh.embedded.store import Store
from arv_ssh.errors import ConfigError, Unavailable, Unprocessable
from tests.unit.arv_ssh.embedded.cluster import ROOT_TOKEN, Cluster, cluster_config

WRITER = """
import json, sys, threading
from arv_ssh.embedded.api import EmbeddedApi
from tests.unit.arv_ssh.embedded.cluster import ROOT_TOKEN, WORK, cluster_config

api = EmbeddedApi(cluster_config(sys.argv[1]))
headers = {"authorization": "Bearer " + ROOT_TOKEN, "content-type": "application/json"}
body = json.dumps(WORK | {"use_existing": False}).encode()

def write():
    while True:
        answer = api.handle("POST", "/arvados/v1/container_requests", "", headers, body)
        assert answer.status == 200, answer
        record = json.loads(answer.body)
        sys.stdout.write(record["uuid"] + " " + record["container_uuid"] + "\\n")
        sys.stdout.flush()

for _ in range(3):
    threading.Thread(target=write).start()
"""
ACKNOWLEDGED = 60
"""Writes to wait for before the kill: enough that one is always under way."""


def test_acknowledged_writes_survive_kill(database: str) -> None:
    """Every write that was acknowledged before a kill -9 is there afterwards, whole, and the next start just works."""
    for _ in range(2):  # the second time on the database that the first kill left behind
        child = subprocess.Popen([sys.executable, "-c", WRITER, database], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        with child.stdout:
            lines = [child.stdout.readline() for _ in range(ACKNOWLEDGED)]
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        assert child.wait(timeout=30) == -signal.SIGKILL
        cluster = Cluster.__new__(Cluster)
        cluster.api = EmbeddedApi(cluster_config(database))
        root = cluster.client(ROOT_TOKEN)
        kept = {item["uuid"]: item["container_uuid"] for item in root.list_all("container_requests")}
        acknowledged = dict(line.split() for line in lines if line.endswith("\n"))
        assert len(acknowledged) >= ACKNOWLEDGED
        assert acknowledged.items() <= kept.items()
        containers = {item["uuid"] for item in root.list_all("containers", select=["uuid"])}
        assert containers == set(kept.values())  # no half of a write either
        cluster.api.close()


def test_settings_of_sqlite(tmp_path: Path) -> None:
    """The database is WAL, written through to the disk, and checks its references."""
    store = Store(f"sqlite:///{tmp_path}/db.sqlite")
    with store.read() as session:
        names = ("journal_mode", "synchronous", "foreign_keys")
        assert [session.scalar(text(f"PRAGMA {name}")) for name in names] == ["wal", 2, 1]
    store.close()


def test_writers_take_turns(cluster: Cluster) -> None:
    """Of many who lock one container at once, one gets it; many writes at once are all done."""
    uuid = cluster.container("Queued")

    def try_lock(_: int) -> bool:
        try:
            cluster.root.lock(uuid)
        except Unprocessable:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(try_lock, range(32))) == 1
        made = list(pool.map(lambda _: cluster.submit(use_existing=True)["container_uuid"], range(32)))
    assert cluster.root.get("containers", uuid)["lock_count"] == 1
    assert cluster.root.list("container_requests")["items_available"] == 33 and len(set(made)) == 32


def test_two_processes_share_a_database(cluster: Cluster, database: str) -> None:
    """A second controller on the same database sees the first one's writes, and both write."""
    other = EmbeddedApi(cluster_config(database))
    both = [cluster.api, other]
    client = Cluster.__new__(Cluster)

    def submit(number: int) -> str:
        client.api = both[number % 2]
        return str(cluster.submit(client.client(ROOT_TOKEN))["uuid"])

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(submit, range(24)))
    assert {item["uuid"] for item in cluster.root.list_all("container_requests")} == made and len(made) == 24
    other.close()


def test_failed_write_leaves_nothing(database: str) -> None:
    """An exception inside a write undoes all of it, and the next writer is not held up."""
    store = Store(database)
    with pytest.raises(RuntimeError), store.write() as session:
        session.execute(text("CREATE TABLE half (x INTEGER)"))
        raise RuntimeError
    with store.write() as session:
        assert not inspect(session.connection()).has_table("half")
    store.close()


def test_reader_is_not_held_up(database: str) -> None:
    """While a writer is at work, readers see what was there before."""
    store = Store(database)
    with store.write() as writing:
        writing.execute(text("CREATE TABLE half (x INTEGER)"))
        with store.read() as session:
            assert not inspect(session.connection()).has_table("half")
    store.close()


def test_busy_database(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that waits too long, for a thread or for another process, is told to come back (503)."""
    monkeypatch.setattr(store_module, "WRITER_TIMEOUT", 0.1)
    store, other = Store(database), Store(database)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with store.write():
            entered.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(30)
    for waiting in (store, other):
        with pytest.raises(Unavailable, match="database"), waiting.write():
            pass
    leave.set()
    holder.join(30)
    store.close()
    other.close()


def test_database_that_cannot_be_written(tmp_path: Path) -> None:
    """A directory in the database's place is a sentence about the config."""
    with pytest.raises(ConfigError, match="Is a directory"):
        Store(f"sqlite:///{tmp_path}")
