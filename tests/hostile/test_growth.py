"""No client makes the gateway grow by more than a little, whatever it sends."""

from __future__ import annotations

import os
from contextlib import suppress

import paramiko
import pytest

from tests.hostile.attacks import ATTACKS, MB, Attack
from tests.hostile.client import WINDOW, Growth, connected, proxied
from tests.integration.conftest import Ssh
from tests.integration.embedded_cluster import EmbeddedCluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the gateway needs root to enter a container's namespaces")

LIMIT = 16 * MB
"""What a connection may cost beside its channels' windows. The connection itself is some four megabytes of it."""
GREETING = 48 * MB
GREETING_LIMIT = 4 * MB


@pytest.fixture
def gateway(cluster: EmbeddedCluster, busybox: str, ssh: Ssh) -> int:
    """The pid of a gateway that has had a session, so that what is loaded once is loaded."""
    assert ssh(busybox, "true").returncode == 0
    return cluster.gateway_pid(busybox)


CASES = [
    pytest.param(attack, cipher, id=f"{attack.run.__name__}-{cipher.partition('@')[0]}")
    for attack in ATTACKS
    for cipher in attack.ciphers
]


@pytest.mark.parametrize(("attack", "cipher"), CASES)
def test_growth(
    cluster: EmbeddedCluster, busybox: str, gateway: int, ssh: Ssh, attack: Attack, cipher: str
) -> None:
    """The gateway stays within its limit, and the next user gets a session."""
    with connected(cluster, busybox, cipher) as client:
        growth = Growth(gateway)
        with suppress(EOFError, OSError, paramiko.SSHException):  # the gateway has had enough
            attack.run(client)
        grown = growth.bytes()
    print(f"{attack.run.__name__}: {grown / MB:.1f} MB")
    assert grown <= LIMIT + attack.windows * WINDOW, f"the gateway grew by {grown / MB:.1f} MB"
    assert ssh(busybox, "echo served").stdout == b"served\n"


def test_greeting_without_end(cluster: EmbeddedCluster, busybox: str, gateway: int) -> None:
    """An identification line that never ends is not kept."""
    with proxied(cluster, busybox) as sock:
        growth = Growth(gateway)
        with suppress(OSError):
            sent = 0
            while sent < GREETING:
                sent += sock.send(b"x" * 65536)
        grown = growth.bytes()
    print(f"greeting: {grown / MB:.1f} MB")
    assert grown <= GREETING_LIMIT, f"the gateway grew by {grown / MB:.1f} MB"
