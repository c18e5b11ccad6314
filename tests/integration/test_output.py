"""A container's output on a disk that is really full: the record says so, and the container is not Complete."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.embedded_cluster import EmbeddedCluster, docker_container
from tests.timing import DEADLINE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a small file system to fill needs root, who may mount one")

MIB = 1 << 20


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """A cluster whose containers' output goes to a file system of 1 MiB."""
    cluster = EmbeddedCluster(tmp_path_factory.mktemp("small-disk") / "cluster")
    cluster.directory.prepare()
    place = cluster.directory.container_log
    place.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "none", str(place)]
    subprocess.run(mount, check=True, timeout=DEADLINE)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
        subprocess.run(["umount", str(place)], check=True, timeout=DEADLINE)


def left(place: Path) -> int:
    """Return the bytes that still fit."""
    facts = os.statvfs(place)
    return facts.f_bavail * facts.f_bsize


def test_a_full_disk(small_disk: EmbeddedCluster) -> None:
    """Output that does not fit makes the container Cancelled, with the reason, although its command succeeded."""
    uuid = small_disk.run("sh", "-c", "echo first; head -c 5000000 /dev/zero; exit 0")
    record = small_disk.wait_for_state(uuid, "Cancelled")
    error = record["runtime_status"]["error"]
    size = (small_disk.directory.container_log / uuid / "stdout.txt").stat().st_size
    assert size < 5_000_000 and left(small_disk.directory.container_log) == 0
    assert f"stdout could not be written beyond {size} bytes: No space left on device" in error
    assert "ended with exit status 0" in error and record["exit_code"] == 0
    assert docker_container(uuid) == ""


def test_room_again(small_disk: EmbeddedCluster) -> None:
    """Once there is room, a container with as much output as fits is Complete, and all of it is there."""
    for path in small_disk.directory.container_log.glob("*/std*.txt"):
        path.unlink()
    uuid = small_disk.run("sh", "-c", f"head -c {MIB // 2} /dev/zero")
    record = small_disk.wait_for_state(uuid, "Complete")
    assert not (record["runtime_status"] or {}).get("error")
    assert (small_disk.directory.container_log / uuid / "stdout.txt").stat().st_size == MIB // 2
