"""``arv-ssh sessions list`` and ``kill``, over all controllers of a cluster, on sessions of stock ssh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.cli.cluster_up import USER_UUIDS
from tests.integration.controllers import Controller, controller, submit
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.people import Person, ending
from tests.timing import DEADLINE

ARV_SSH = str(Path(sys.executable).with_name("arv-ssh"))
ACCESS = {"Mode": "default-on", "Admin": True, "User": True}


class Two:
    """Two controllers of one cluster, on two hosts as far as they know; the first knows the second's URL."""

    def __init__(self, first: Controller, second: Controller, config: Path, container: str) -> None:
        self.first, self.second, self.config, self.container = first, second, config, container

    def sessions(self, *arguments: str, token: str = "") -> subprocess.CompletedProcess[str]:
        """Run ``arv-ssh sessions`` against the first, as the user whose token is given, or as root by the config."""
        by_token = {"ARVADOS_API_HOST": self.first.address, "ARVADOS_API_TOKEN": token} if token else {}
        options = [] if token else ["--config", str(self.config)]
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "SSL_CERT_FILE": str(self.first.ca)}
        return subprocess.run(
            [ARV_SSH, "sessions", *arguments, *options], env=environment | by_token, capture_output=True, text=True,
            timeout=DEADLINE,
        )  # fmt: skip

    def listed(self) -> list[dict[str, Any]]:
        done = self.sessions("list", "--json")
        assert done.returncode == 0, done.stderr
        items = json.loads(done.stdout)["items"]
        assert isinstance(items, list)
        return items


@pytest.fixture(scope="module")
def two(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    container = str(submit(cluster.api(), USER_UUIDS["active"])["container_uuid"])
    cluster.wait_for_state(container, "Running")
    directories = [tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")]
    with controller(cluster, directories[1], ACCESS) as second:
        urls: dict[str, Any] = {"Controller": {"InternalURLs": {f"https://{second.address}": {}}}}
        with controller(cluster, directories[0], ACCESS, Services=urls) as first:
            config = directories[0] / "by-root.yml"
            external = {"Controller": {"ExternalURL": f"https://{first.address}"}}
            section = {"SystemRootToken": cluster_root_token(cluster), "Services": external}
            config.write_text(json.dumps({"Clusters": {"zzzzz": section}}))
            yield Two(first, second, config, container)


def cluster_root_token(cluster: EmbeddedCluster) -> str:
    from arv_ssh.config import cluster_config

    return cluster_config.load(cluster.directory.config).system_root_token


def token(cluster: EmbeddedCluster, user: str) -> str:
    return cluster.directory.token_file(user).read_text().strip()


def test_list_and_kill(cluster: EmbeddedCluster, two: Two, tmp_path: Path) -> None:
    """Sessions of all controllers are listed; a killed one ends at once, ssh says why, and the other goes on."""
    active = token(cluster, "active")
    with ExitStack() as stack:
        near = stack.enter_context(Person(tmp_path / "near", two.first, active).session(two.container))
        far = stack.enter_context(Person(tmp_path / "far", two.second, active).session(two.container, "-l", "root"))
        items = two.listed()
        assert [item["user_uuid"] for item in items] == [USER_UUIDS["active"]] * 2
        assert [item["login_username"] for item in items] == ["", "root"]
        assert items[0]["pid"] != items[1]["pid"]
        assert items[0]["peer"] == "127.0.0.1" and items[0]["bytes_from_client"] > 0
        by_admin = two.sessions("list", token=token(cluster, "admin"))
        assert by_admin.returncode == 0 and all(item["id"] in by_admin.stdout for item in items)
        done = two.sessions("kill", items[1]["id"], "--reason", "the node goes down")
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert items[1]["id"] in done.stdout
        said = ending(far)
        assert ":11: an administrator ended this session: the node goes down" in said
        assert [item["id"] for item in two.listed()] == [items[0]["id"]]
        assert near.poll() is None
        done = two.sessions("kill", items[0]["id"], token=token(cluster, "admin"))
        assert done.returncode == 0, done.stderr
        assert ":11: an administrator ended this session" in ending(near)
    assert two.listed() == []
    assert '"reason": "killed: an administrator ended this session: the node goes down"' in two.second.log.read_text()


def test_who_may_not(cluster: EmbeddedCluster, two: Two) -> None:
    """A user who is no administrator gets one sentence and sees nothing."""
    for arguments in (("list",), ("kill", "ses-" + "0" * 20)):
        done = two.sessions(*arguments, token=token(cluster, "active"))
        assert done.returncode != 0 and done.stdout == ""
        assert done.stderr.count("\n") == 1 and "administrators" in done.stderr


def test_unknown_session(two: Two) -> None:
    """An id that is no open session's is one sentence and a failure."""
    for word, sentence in (("ses-" + "0" * 20, "is open here"), ("ses-1", "not a session"), ("../x", "not a session")):
        done = two.sessions("kill", word)
        assert done.returncode != 0 and done.stdout == ""
        assert done.stderr.count("\n") == 1 and sentence in done.stderr, done.stderr


def test_a_controller_that_is_down(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """A list that may lack a controller's sessions says so, and exits with 1."""
    urls: dict[str, Any] = {"Controller": {"InternalURLs": {"https://127.0.0.1:1": {}}}}
    with controller(cluster, tmp_path, ACCESS, Services=urls) as one:
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "SSL_CERT_FILE": str(one.ca)}
        environment |= {"ARVADOS_API_HOST": one.address, "ARVADOS_API_TOKEN": token(cluster, "admin")}
        done = subprocess.run([ARV_SSH, "sessions", "list"], env=environment, capture_output=True, text=True,
                              timeout=DEADLINE)  # fmt: skip
    assert done.returncode == 1
    assert "not all sessions are shown: controller https://127.0.0.1:1 was not asked" in done.stdout
