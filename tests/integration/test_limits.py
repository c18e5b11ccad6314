"""How many sessions may be open at once, through stock ssh and in a burst."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.cli.cluster_up import USER_UUIDS
from tests.integration.controllers import Controller, controller, submit
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.people import Person
from tests.timing import wait_for

BURST = 50


@pytest.fixture(scope="module")
def container(cluster: EmbeddedCluster) -> str:
    """A running container of the active user."""
    uuid = str(submit(cluster.api(), USER_UUIDS["active"])["container_uuid"])
    cluster.wait_for_state(uuid, "Running")
    return uuid


@pytest.fixture
def limited(cluster: EmbeddedCluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Controller]:
    """A controller with the parameter as its limits."""
    access: dict[str, Any] = {"Mode": "default-on", "Admin": True, "User": True, "Limits": request.param}
    with controller(cluster, tmp_path, access) as one:
        yield one


@pytest.mark.parametrize(
    ("limited", "words"),
    [({name: 2}, f"{name}: 2") for name in ("SessionsPerUser", "SessionsPerContainer", "SessionsPerController")],
    indirect=["limited"],
)
def test_ssh_says_which(
    cluster: EmbeddedCluster, limited: Controller, words: str, container: str, tmp_path: Path
) -> None:
    """ssh over a limit shows which one and its number, and gets in once a session has ended."""
    active = Person(tmp_path / "active", limited, cluster.directory.token_file("active").read_text().strip())
    with active.session(container):
        with active.session(container):
            refused = active.ssh(container, "true")
            assert refused.returncode == 255 and words in refused.stderr, refused.stderr
        wait_for(lambda: active.ssh(container, "true").returncode == 0, "the place to come back")
    assert '"status": 429' in limited.log.read_text()


@pytest.mark.parametrize("limited", [{"SessionsPerUser": 10}], indirect=True)
def test_a_burst(cluster: EmbeddedCluster, limited: Controller, container: str) -> None:
    """Of fifty logins at once at a limit of ten, exactly ten get in."""
    token = cluster.directory.token_file("active").read_text().strip()
    with ExitStack() as stack, ThreadPoolExecutor(BURST) as pool:
        asked = list(pool.map(lambda _: limited.ask_for_session(container, token), range(BURST)))
        for _, connection in asked:
            stack.enter_context(connection)
        assert Counter(answer.status for answer, _ in asked) == {101: 10, 429: BURST - 10}
