"""Why an open session ends before its user ends it, and what stock ssh says of that."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests

from arv_ssh.cli.cluster_up import USER_UUIDS
from tests.integration.conftest import Ssh
from tests.integration.controllers import Controller, controller, new_user, start, submit, write_config
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.people import Person, ending
from tests.timing import DEADLINE

UNTIL_TOLD = ("sh", "-c", "until [ -e /tmp/end ]; do sleep 0.1; done; exit 3")
"""A container's program that ends with exit status 3 once somebody makes a file."""


def test_the_containers_end(cluster: EmbeddedCluster, ssh: Ssh) -> None:
    """When the container ends by itself, ssh says that it has ended and how, with and without a terminal."""
    uuid = cluster.run(*UNTIL_TOLD)
    with ssh.on_terminal("-tt", uuid) as terminal, ssh.start(uuid, "cat; sleep 1000") as command:
        terminal.expect("# ")
        ssh(uuid, "touch /tmp/end")
        _, stderr = command.communicate(timeout=DEADLINE)
        sentence = f"container {uuid} has ended (exit 3)"
        assert f"arv-ssh: {sentence}\r\n" in stderr.decode() and f":11: {sentence}" in stderr.decode()
        assert command.returncode == 255
        terminal.expect(f":11: {sentence}")


@pytest.fixture(scope="module")
def beside(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    """A controller that lets administrators in everywhere and users into what is theirs."""
    directory = tmp_path_factory.mktemp("beside")
    with controller(cluster, directory, {"Mode": "default-on", "Admin": True, "User": True}) as one:
        yield one


def a_running_container(cluster: EmbeddedCluster, user_uuid: str) -> tuple[str, str]:
    """Return the UUIDs of a request of that user and of its container, once that runs."""
    request = submit(cluster.api(), user_uuid)
    cluster.wait_for_state(request["container_uuid"], "Running")
    return str(request["uuid"]), str(request["container_uuid"])


def token_of(token: str) -> str:
    """Return a token's UUID."""
    return token.split("/")[1]


def test_revocation(cluster: EmbeddedCluster, beside: Controller, tmp_path: Path) -> None:
    """A right that is lost ends an open session, and ssh says which; another's session goes on."""
    root = cluster.api()
    people: dict[str, Person] = {}
    containers: dict[str, str] = {}
    of: dict[str, str] = {}
    for name in ("revoked", "expired", "hidden", "shared", "untouched"):
        uuid, token = new_user(root, f"end-{name}")
        people[name] = Person(tmp_path / name, beside, token)
        of[name], containers[name] = a_running_container(cluster, uuid)
    boss, token = new_user(root, "end-boss")
    root.update("users", boss, {"is_admin": True})
    people["boss"], containers["boss"] = Person(tmp_path / "boss", beside, token), containers["shared"]
    with ExitStack() as stack:
        sessions = {name: stack.enter_context(one.session(containers[name])) for name, one in people.items()}
        root.delete("api_client_authorizations", token_of(people["revoked"].token))
        expiry = datetime.now(UTC).isoformat()
        root.update("api_client_authorizations", token_of(people["expired"].token), {"expires_at": expiry})
        root.update("container_requests", of["hidden"], {"owner_uuid": USER_UUIDS["admin"]})
        root.update("container_requests", of["shared"], {"modified_by_user_uuid": USER_UUIDS["admin"]})
        root.update("users", boss, {"is_admin": False})
        said = {name: ending(sessions[name]) for name in people if name != "untouched"}
        assert "the API token is not valid" in said["revoked"]
        assert "the API token expired at" in said["expired"]
        assert f"you may not read container {containers['hidden']} any more" in said["hidden"]
        assert "requests that other users submitted" in said["shared"]
        assert f"you may not read container {containers['shared']} any more" in said["boss"]
        assert all("Received disconnect" in text for text in said.values())
        assert sessions["untouched"].poll() is None
    log = beside.log.read_text()
    assert log.count('"reason": "revoked: ') == 5
    assert not any(one.token.rpartition("/")[2] in log for one in people.values())


def test_a_colleague_who_renames_a_request(cluster: EmbeddedCluster, beside: Controller) -> None:
    """Who may write somebody's request, and does, may not enter its container; the submitter still may."""
    root = cluster.api()
    owner, token = new_user(root, "end-renamed")
    colleague, colleagues_token = new_user(root, "end-renamer")
    request, container = a_running_container(cluster, owner)
    permission = {"link_class": "permission", "name": "can_write", "tail_uuid": colleague, "head_uuid": request}
    root.create("links", permission)
    renamed = {"container_request": {"name": "the colleague's now"}}
    answer = requests.patch(
        f"https://{beside.address}/arvados/v1/container_requests/{request}", json=renamed, timeout=DEADLINE,
        headers={"Authorization": f"Bearer {colleagues_token}"}, verify=str(cluster.directory.ca),
    )  # fmt: skip
    assert answer.json()["modified_by_user_uuid"] == colleague
    status, sentence = beside.status(container, colleagues_token)
    assert status == 403 and "requests that other users submitted" in sentence
    assert beside.status(container, token) == (101, "")


def test_who_shares_a_connection_reads_why_too(
    cluster: EmbeddedCluster, beside: Controller, tmp_path: Path
) -> None:
    """With ControlMaster the reason reaches sessions whose ssh has no connection of its own."""
    uuid, token = new_user(cluster.api(), "end-together")
    person = Person(tmp_path / "person", beside, token)
    _, container = a_running_container(cluster, uuid)
    path = f"ControlPath={tmp_path}/cm"
    with person.session(container, "-o", "ControlMaster=yes", "-o", path) as master:
        with person.session(container, "-o", "ControlMaster=no", "-o", path) as guest:
            cluster.api().delete("api_client_authorizations", token_of(token))
            assert "arv-ssh: the API token is not valid" in ending(guest)
        assert "arv-ssh: the API token is not valid" in ending(master)


def test_a_reload(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """SIGHUP with shell access disabled ends open sessions at once, and ssh says so; a broken config ends none."""
    uuid, token = new_user(cluster.api(), "end-reload")
    _, container = a_running_container(cluster, uuid)
    access = {"Mode": "default-on", "Admin": True, "User": True}
    file = write_config(cluster, tmp_path, access)
    options = ["--listen", "127.0.0.1:0", "--workers", "2", "--drain-timeout", "0"]
    with start(cluster, file, tmp_path / "controller.log", options) as process:
        person = Person(tmp_path / "person", process.wait_until_it_listens(2), token)
        with person.session(container) as one, person.session(container) as other:
            file.write_text("Clusters: {zzzzz: nonsense}\n")
            process.popen.send_signal(signal.SIGHUP)
            process.wait_for_event("new config refused; keeping the old one", 2)
            assert person.ssh(container, "true").returncode == 0
            assert one.poll() is None and other.poll() is None
            write_config(cluster, tmp_path, access | {"Mode": "disabled"})
            process.popen.send_signal(signal.SIGHUP)
            for session in (one, other):
                assert ":11: shell access is disabled on this cluster" in ending(session)
        assert "shell access is disabled" in person.ssh(container, "true").stderr
