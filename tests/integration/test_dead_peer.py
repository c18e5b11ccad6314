"""Clients whose network is gone without a word, on a link of their own that is really cut."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.cli.cluster_up import USER_UUIDS
from arv_ssh.net.dead_peers import DEAD_AFTER
from tests.integration.controllers import controller, submit
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.people import Person
from tests.timing import DEADLINE, SCALE, wait_for

HERE, THERE = "198.18.0.1", "198.18.0.2"
"""Both ends of the link: of the network for benchmarks of devices (RFC 2544), which leads nowhere."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=DEADLINE)


@pytest.fixture
def far_away() -> Iterator[str]:
    """A network namespace joined to this host by one link, ``far0`` on its side."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a network namespace")
    name = f"arv{secrets.token_hex(4)}"
    ip("netns", "add", name)
    try:
        ip("link", "add", name, "type", "veth", "peer", "name", "far0", "netns", name)
        ip("address", "add", f"{HERE}/30", "dev", name)
        ip("link", "set", name, "up")
        for words in (("address", "add", f"{THERE}/30", "dev", "far0"), ("link", "set", "far0", "up")):
            ip("-n", name, *words)
        yield name
    finally:
        ip("netns", "delete", name)


@pytest.mark.timeout(150 * SCALE)
def test_a_cut_link(cluster: EmbeddedCluster, far_away: str, tmp_path: Path) -> None:
    """Over a cut link sessions end within 60 s, with or without data on its way; who only stopped reading stays."""
    uuid = str(submit(cluster.api(), USER_UUIDS["active"])["container_uuid"])
    cluster.wait_for_state(uuid, "Running")
    token = cluster.directory.token_file("active").read_text().strip()
    access = {"Mode": "default-on", "Admin": True, "User": True}
    with controller(cluster, tmp_path, access, host="0.0.0.0") as one, ExitStack() as stack:
        port = one.address.rpartition(":")[2]
        lost = Person(
            tmp_path / "lost", one, token, prefix=("ip", "netns", "exec", far_away), resumes=False,
            ARVADOS_API_HOST=f"{HERE}:{port}", ARVADOS_API_HOST_INSECURE="1",
        )  # fmt: skip
        paused = Person(tmp_path / "paused", one, token)
        stack.enter_context(lost.session(uuid))
        stack.enter_context(lost.session(uuid, command="echo ready; seq 9999; while echo on; do sleep 0.2; done"))
        stopped = stack.enter_context(paused.session(uuid, command="echo ready; exec cat /dev/zero"))
        stopped.send_signal(signal.SIGSTOP)
        ip("-n", far_away, "link", "set", "far0", "down")
        began = time.monotonic()
        ended = wait_for(lambda: closed if len(closed := closings(one.log)) == 2 else None, "both", 2 * DEAD_AFTER)
        assert {line["reason"] for line in ended} == {"client left"}
        assert {line["bytes_to_client"] > 10_000 for line in ended} == {True, False}
        wait_for(lambda: time.monotonic() - began > DEAD_AFTER, "the stopped client's time", 2 * DEAD_AFTER)
        assert len(closings(one.log)) == 2
        stopped.send_signal(signal.SIGCONT)
        assert stopped.stdout is not None
        for _ in range(64):  # far more than was on its way when it stopped
            assert len(stopped.stdout.read(1 << 20)) == 1 << 20


def closings(log: Path) -> list[dict[str, Any]]:
    """Return a controller's log lines of closed sessions."""
    return [json.loads(line) for line in log.read_text().splitlines() if '"session closed"' in line]
