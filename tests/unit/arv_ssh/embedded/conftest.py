"""Fixtures for the tests of the embedded API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.arv_ssh.embedded.cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Give an embedded API with three users."""
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.api.close()
