"""A cluster of this directory's own, with gateways grown on purpose. It records all that it can: that keeps most."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.conftest import busybox, ssh
from tests.integration.embedded_cluster import EmbeddedCluster

__all__ = ["busybox", "ssh"]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """The cluster, with an audit that is required, and terminals recorded."""
    root = tmp_path_factory.mktemp("hostile")
    result = EmbeddedCluster(root / "cluster")
    result.configure_watching(root / "audit", root / "recordings")
    try:
        result.up()
        yield result
    finally:
        result.down()
