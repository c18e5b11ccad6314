"""One attack, again and again until it is ended: ``python -m tests.hostile CLUSTER-DIRECTORY CONTAINER-UUID ATTACK``.

For what is measured beside it, and for looking at a gateway under attack.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import paramiko

from tests.hostile.attacks import ATTACKS
from tests.hostile.client import connected
from tests.integration.embedded_cluster import EmbeddedCluster


def main() -> None:
    """Attack until killed; print a line when the first connection is there."""
    directory, uuid, name = sys.argv[1:]
    attack = next(attack.run for attack in ATTACKS if attack.run.__name__ == name)
    cluster = EmbeddedCluster(Path(directory))
    while True:
        with connected(cluster, uuid) as client:
            print("connected", flush=True)
            with suppress(EOFError, OSError, paramiko.SSHException):
                attack(client)


if __name__ == "__main__":
    main()
