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
from tests.integration.controllers import Controller, controller, start, submit, write_config
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.people import Person
from tests.timing import wait_for

ACCESS: dict[str, Any] = {"Mode": "default-on", "Admin": True, "User": True}
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
    with controller(cluster, tmp_path, ACCESS | {"Limits": request.param}) as one:
        yield one


@pytest.mark.parametrize(
    ("limited", "words"),
    [({f"ConnectionsPer{what}": 2}, f"ConnectionsPer{what}: 2") for what in ("User", "Container", "Controller")],
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


def test_a_burst(cluster: EmbeddedCluster, container: str, tmp_path: Path) -> None:
    """Of fifty logins at once at a limit of ten, exactly ten get in, whichever worker they come to."""
    token = cluster.directory.token_file("active").read_text().strip()
    file = write_config(cluster, tmp_path, ACCESS | {"Limits": {"SessionsPerUser": 10}})
    options = ["--listen", "127.0.0.1:0", "--workers", "2", "--drain-timeout", "0"]
    with (
        start(cluster, file, tmp_path / "controller.log", options) as process,
        ThreadPoolExecutor(BURST) as pool,
        ExitStack() as stack,
    ):
        limited = process.wait_until_it_listens(2)
        asked = list(pool.map(lambda _: limited.ask_for_session(container, token), range(BURST)))
        for _, connection in asked:
            stack.enter_context(connection)
        assert Counter(answer.status for answer, _ in asked) == {101: 10, 429: BURST - 10}
        listed = [one for one in limited.root.shell_sessions()["items"] if one["container_uuid"] == container]
        assert len(listed) == 10  # the list spans the workers as the limit does
