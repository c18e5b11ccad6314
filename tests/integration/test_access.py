"""Who may enter: every row of the table of Containers.ShellAccess, times everyone who may ask.

All of it for one controller on SQLite, and for two that share a database in PostgreSQL, asked through nginx.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.cli.cluster_up import USER_UUIDS
from arv_ssh.config import cluster_config
from arv_ssh.trust.access import FIRST_SESSION
from tests.integration.conftest import Ssh
from tests.integration.controllers import (
    Controller,
    ControllerProcess,
    controller,
    new_user,
    start,
    submit,
    write_config,
)
from tests.integration.embedded_cluster import EmbeddedCluster, PostgresqlCluster
from tests.integration.proxies import nginx
from tests.postgresql import postgresql_server

NOT_GIVEN = None
MODES = (NOT_GIVEN, "disabled", "default-off", "default-on")
PEOPLE = ("admin", "owner", "other reader", "stranger", "anonymous")
WISHES = (NOT_GIVEN, True, False)
"""What the container's runtime_constraints say of ``shell_access``."""


@dataclass(frozen=True)
class Policy:
    """One setting of Containers.ShellAccess."""

    mode: str | None
    admin: bool
    user: bool

    def __str__(self) -> str:
        return f"{self.mode or 'no mode'} admin={self.admin} user={self.user}"

    def section(self) -> dict[str, str | bool]:
        mode = {"Mode": self.mode} if self.mode else {}
        return {"Admin": self.admin, "User": self.user, **mode}


POLICIES = [Policy(*row) for row in itertools.product(MODES, (True, False), (True, False))]


def expected(policy: Policy, wish: bool | None, who: str) -> int:
    """Return the status that the table gives, in the table's order: mode, reading, whose container."""
    mode = policy.mode or ("default-on" if policy.admin or policy.user else "disabled")
    if mode == "disabled":
        return 503
    if who == "anonymous":
        return 401
    if who == "stranger":
        return 404
    if wish is False or (mode == "default-off" and wish is NOT_GIVEN):
        return 403
    allowed = (policy.admin and who == "admin") or (policy.user and who == "owner")
    return 101 if allowed else 403


@dataclass(frozen=True)
class Scene:
    """Running containers by what they say of shell_access, and everyone's token."""

    containers: dict[bool | None, str]
    tokens: dict[str, str]


PLACES = ("one controller", "two behind nginx on PostgreSQL")


# Of a wider scope than the policies, so that pytest goes through all of them in one place before it makes the other.
@pytest.fixture(scope="package", params=PLACES)
def cluster(
    request: pytest.FixtureRequest, cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedCluster]:
    """The session's cluster, or one on PostgreSQL."""
    if request.param == "one controller":
        yield cluster
        return
    with postgresql_server() as server, server.database() as name:
        shared = PostgresqlCluster(tmp_path_factory.mktemp("postgresql") / "cluster", server.url(name))
        shared.up()
        yield shared
        shared.down()


@pytest.fixture(scope="module")
def ssh(cluster: EmbeddedCluster) -> Ssh:
    """Stock ssh, for the cluster of this module."""
    return Ssh(cluster)


Serving = Callable[[Policy], AbstractContextManager[Controller]]


@pytest.fixture(scope="module")
def serving(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Serve the cluster under a policy: by a controller of its own, or by the two behind nginx."""
    if isinstance(cluster, PostgresqlCluster):
        with Pair.behind_nginx(cluster, tmp_path_factory.mktemp("pair")) as pair:
            yield pair.under
    else:
        yield lambda policy: controller(cluster, tmp_path_factory.mktemp("controller"), policy.section())


class Pair:
    """Two controllers, which get each policy by a reload, and the nginx in front of them."""

    def __init__(
        self, cluster: EmbeddedCluster, directories: list[Path], processes: list[ControllerProcess], through: Controller
    ) -> None:
        self._cluster = cluster
        self._directories = directories
        self._processes = processes
        self._through = through
        self._reloads = 0

    @classmethod
    @contextmanager
    def behind_nginx(cls, cluster: EmbeddedCluster, directory: Path) -> Iterator[Pair]:
        """Run them until the end of the block."""
        directories = [directory / name for name in ("first", "second", "nginx")]
        with ExitStack() as running:
            for path in directories:
                path.mkdir()
            processes = [
                running.enter_context(
                    start(
                        cluster,
                        write_config(cluster, path, POLICIES[0].section()),
                        path / "controller.log",
                        ["--listen", "127.0.0.1:0", "--drain-timeout", "0"],
                    )
                )
                for path in directories[:2]
            ]
            controllers = [process.wait_until_it_listens() for process in processes]
            addresses = [one.address for one in controllers]
            address = running.enter_context(nginx(cluster, directories[2], addresses))
            token = cluster_config.load(cluster.directory.config).system_root_token
            through = Controller(address, cluster.directory.ca, token, processes[0].log)
            yield cls(cluster, directories[:2], processes, through)

    @contextmanager
    def under(self, policy: Policy) -> Iterator[Controller]:
        """Reload both with a policy; give what clients see."""
        self._reloads += 1
        for directory, process in zip(self._directories, self._processes, strict=True):
            write_config(self._cluster, directory, policy.section())
            process.popen.send_signal(signal.SIGHUP)
        for process in self._processes:
            process.wait_for_event("config reloaded", self._reloads)
        yield self._through


@pytest.fixture(scope="module")
def scene(cluster: EmbeddedCluster) -> Scene:
    """Containers of the active user, which the spectator may read by a permission link."""
    root = cluster.api()
    containers = {}
    for wish in WISHES:
        says = {} if wish is NOT_GIVEN else {"shell_access": wish}
        request = submit(
            root, USER_UUIDS["active"], runtime_constraints={"vcpus": 1, "ram": 256 << 20, **says}
        )
        link = {"link_class": "permission", "name": "can_read", "head_uuid": request["uuid"]}
        root.create("links", link | {"tail_uuid": USER_UUIDS["spectator"]})
        containers[wish] = str(request["container_uuid"])
    for uuid in containers.values():
        cluster.wait_for_state(uuid, "Running")
    own = {who: cluster.directory.token_file(name).read_text().strip() for who, name in {
        "admin": "admin", "owner": "active", "other reader": "spectator"
    }.items()}  # fmt: skip
    return Scene(containers, own | {"stranger": new_user(root, "stranger")[1], "anonymous": ""})


@pytest.fixture(scope="module")
def under(request: pytest.FixtureRequest, serving: Serving) -> Iterator[Controller]:
    """What serves the cluster under the policy that is the parameter."""
    with serving(request.param) as running:
        yield running


@pytest.mark.parametrize("under", POLICIES, indirect=True, ids=str)
@pytest.mark.parametrize("wish", WISHES, ids=lambda wish: f"shell_access={wish}")
@pytest.mark.parametrize("who", PEOPLE)
def test_table(
    request: pytest.FixtureRequest, under: Controller, scene: Scene, wish: bool | None, who: str
) -> None:
    """Each of the five gets what the table gives, to the mere question too, and a refusal says why in one sentence."""
    policy = request.node.callspec.params["under"]
    asked = under.asked(scene.containers[wish], scene.tokens[who])
    status, sentence = under.status(scene.containers[wish], scene.tokens[who])
    assert status == expected(policy, wish, who), sentence
    assert asked == (200 if status == 101 else status)
    assert (sentence == "") == (status == 101)
    if status in (403, 404):
        assert scene.containers[wish] in sentence


@pytest.fixture(scope="module")
def default_on(serving: Serving) -> Iterator[Controller]:
    with serving(Policy("default-on", admin=True, user=True)) as running:
        yield running


def test_a_container_of_two_users_requests(cluster: EmbeddedCluster, scene: Scene, default_on: Controller) -> None:
    """A user enters only a container all of whose requests that user submitted; an admin enters it still."""
    root = cluster.api()
    work = {"command": ["sleep", "1000001"], "use_existing": True}
    first = submit(root, USER_UUIDS["active"], **work)
    uuid = first["container_uuid"]
    cluster.wait_for_state(uuid, "Running")
    # Root may look for a container to reuse in another user's name; that user's request then shares it.
    second = submit(root, USER_UUIDS["spectator"], **work)
    assert second["container_uuid"] == uuid
    assert default_on.status(uuid, scene.tokens["owner"])[0] == 403
    assert default_on.status(uuid, scene.tokens["other reader"])[0] == 403
    assert default_on.status(uuid, scene.tokens["admin"])[0] == 101


def test_the_first_session_marks_the_container(
    cluster: EmbeddedCluster, scene: Scene, default_on: Controller
) -> None:
    """A session sets interactive_session_started; a refusal does not. A marked container is not reused."""
    root = cluster.api()
    work = {"command": ["sleep", "1000002"], "use_existing": True}
    uuid = submit(root, USER_UUIDS["active"], **work)["container_uuid"]
    cluster.wait_for_state(uuid, "Running")
    assert default_on.status(uuid, scene.tokens["stranger"])[0] == 404
    assert not cluster.container(uuid)["interactive_session_started"]
    assert submit(root, USER_UUIDS["active"], **work)["container_uuid"] == uuid
    assert default_on.status(uuid, scene.tokens["owner"])[0] == 101
    marked = cluster.container(uuid)
    assert marked["interactive_session_started"] is True
    note = marked["properties"][FIRST_SESSION]
    assert note["user_uuid"] == USER_UUIDS["active"] and note["request_id"].startswith("req-")
    assert submit(root, USER_UUIDS["active"], **work)["container_uuid"] != uuid
    # Who comes later is not who marked it.
    assert default_on.status(uuid, scene.tokens["admin"])[0] == 101
    assert cluster.container(uuid)["properties"][FIRST_SESSION] == note


def test_a_container_entered_by_ssh_is_not_reused(cluster: EmbeddedCluster, ssh: Ssh) -> None:
    """An equal request shares a container that nobody has entered, and not one that somebody entered by ssh."""
    root = cluster.api()
    work = {"command": ["sleep", "1000003"], "use_existing": True}
    uuid = submit(root, USER_UUIDS["active"], **work)["container_uuid"]
    cluster.wait_for_state(uuid, "Running")
    assert submit(root, USER_UUIDS["active"], **work)["container_uuid"] == uuid
    before = datetime.now(UTC).replace(microsecond=0)
    assert ssh(uuid, "true").returncode == 0
    note = cluster.container(uuid)["properties"][FIRST_SESSION]
    assert note["user_uuid"] == USER_UUIDS["active"]
    assert before <= datetime.fromisoformat(note["at"]) <= datetime.now(UTC)
    fresh = submit(root, USER_UUIDS["active"], **work)["container_uuid"]
    assert fresh != uuid
    cluster.wait_for_state(fresh, "Running")
    assert submit(root, USER_UUIDS["active"], **work)["container_uuid"] == fresh


def test_another_api_host(
    cluster: EmbeddedCluster, scene: Scene, default_on: Controller, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A controller without an API of its own asks another host's over HTTPS, with the same answers."""
    section: dict[str, Any] = {"API": f"https://{default_on.address}", "EmbeddedAPI": None}
    policy = Policy("default-on", admin=True, user=True)
    with controller(cluster, tmp_path_factory.mktemp("second"), policy.section(), **section) as second:
        uuid = scene.containers[NOT_GIVEN]
        assert {who: second.status(uuid, scene.tokens[who])[0] for who in PEOPLE} == {
            who: expected(policy, NOT_GIVEN, who) for who in PEOPLE
        }
        assert second.status("zzzzz-dz642-000000000000000", scene.tokens["owner"])[0] == 404
        assert second.status(uuid, "v2/zzzzz-gj3su-000000000000000/wrong")[0] == 401
