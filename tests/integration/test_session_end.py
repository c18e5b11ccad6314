"""Why an open session ends before its user ends it, and what stock ssh says of that."""

from __future__ import annotations

from tests.integration.conftest import Ssh
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.timing import DEADLINE

UNTIL_TOLD = ("sh", "-c", "until [ -e /tmp/end ]; do sleep 0.1; done; exit 3")
"""A container's program that ends with exit status 3 once somebody makes a file."""


def test_the_containers_end(cluster: EmbeddedCluster, ssh: Ssh) -> None:
    """When the container ends by itself, ssh says that it has ended and how, with and without a terminal."""
    uuid = cluster.run(*UNTIL_TOLD)
    with ssh.on_terminal("-tt", uuid) as terminal, ssh.start(uuid, "cat; sleep 1000") as command:
        terminal.expect("# ")
        ssh(uuid, "touch /tmp/end")
        _, stderr = command.communicate(timeout=DEADLINE)
        sentence = f"container {uuid} has ended (exit 3)"
        assert f"arv-ssh: {sentence}\r\n" in stderr.decode() and f":11: {sentence}" in stderr.decode()
        assert command.returncode == 255
        terminal.expect(f":11: {sentence}")
