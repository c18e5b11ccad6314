"""A cluster whose sessions are all recorded, for the tests of what people who should not be in may do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from arv_ssh.config import cluster_config
from arv_ssh.trust import credentials
from tests.integration.conftest import FOREVER, Ssh
from tests.integration.controllers import Controller
from tests.integration.embedded_cluster import EmbeddedCluster


@dataclass(frozen=True)
class Site:
    """A cluster that records everything, and two containers of its active user."""

    cluster: EmbeddedCluster
    ssh: Ssh
    debian: str
    busybox: str
    audit: Path
    recordings: Path

    @property
    def controller(self) -> Controller:
        """The cluster's controller."""
        directory = self.cluster.directory
        config = cluster_config.load(directory.config)
        address = config.controller_url.removeprefix("https://")
        return Controller(address, directory.ca, config.system_root_token, directory.log)

    def token(self, user: str = "active") -> str:
        """Return a user's API token."""
        return self.cluster.directory.token_file(user).read_text().strip()

    def secret(self, uuid: str) -> str:
        """Return a container's secret."""
        return credentials.container_secret(self.controller.root_token, uuid)

    def address(self, uuid: str) -> str:
        """Return the address of a container's gateway."""
        return str(self.cluster.container(uuid)["gateway_address"])


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    cluster = EmbeddedCluster(root / "cluster")
    cluster.configure_watching(root / "audit", root / "recordings")
    cluster.up()
    try:
        debian = cluster.run(*FOREVER, image="arv-ssh/debian:test")
        busybox = cluster.run(*FOREVER)
        yield Site(cluster, Ssh(cluster), debian, busybox, root / "audit", root / "recordings")
    finally:
        cluster.down()
