"""Our gateway beside stock crunch-run, which dispatchers call through ``crunch-run-beside``; through the real ssh."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.beside_site import BesideSite, beside_site
from tests.integration.embedded_cluster import EmbeddedCluster


@pytest.fixture(scope="module")
def site(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BesideSite]:
    """The site."""
    with beside_site(cluster, tmp_path_factory.mktemp("beside")) as result:
        yield result


def test_cloud(site: BesideSite) -> None:
    """The cloud dispatcher's call returns at once with stock's answer; ssh then meets our gateway, to the job's end."""
    with site.attempt() as job:
        done = job.cloud()
        assert done.returncode == 0, done.stderr
        print(done.stdout)
        job.wait_for_ours()
        found = job.ssh("hostname; exit 7")
        assert found.returncode == 7, found.stderr
