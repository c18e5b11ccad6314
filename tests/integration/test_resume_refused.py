"""Sessions that do not come back: who may not go on with one, and what is left of one that has ended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from arv_ssh.cli.cluster_up import USER_UUIDS
from arv_ssh.client.controller import AcceptedUpgrade, SessionOver
from arv_ssh.client.controller import Controller as ClientController
from arv_ssh.errors import BadGateway
from arv_ssh.resume.negotiation import Grant, read_grant
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.people import Person, ending
from tests.integration.resume_site import Site, own_gateway, resumable, resume_site
from tests.timing import DEADLINE, wait_for


@pytest.fixture(scope="module")
def site(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two controllers and a breaker before the first one."""
    with resume_site(cluster, tmp_path_factory.mktemp("resume")) as one:
        yield one


class TestRefused:
    """Who may not go on with a session, and what the rightful owner has then: all of it."""

    @pytest.fixture
    def client(self, site: Site) -> ClientController:
        return resumable(site)

    @pytest.fixture
    def opened(self, site: Site, client: ClientController, busybox: str) -> Iterator[tuple[AcceptedUpgrade, Grant]]:
        session = client.open_session(busybox, "_", "")
        grant = read_grant(session.resume)
        assert grant is not None
        yield session, grant
        site.first.root.kill_shell_session(grant.session, "its test is over")
        session.connection.close()

    @staticmethod
    def refused(client: ClientController, container: str, asked: str) -> str:
        with pytest.raises((SessionOver, BadGateway)) as raised:
            client.resume_session(container, "_", asked, DEADLINE, DEADLINE)
        return str(raised.value)

    def test_all_that_is_wrong(
        self, site: Site, busybox: str, client: ClientController, opened: tuple[AcceptedUpgrade, Grant]
    ) -> None:
        """A stranger's token, a forged secret, a wrong offset, a replay: a sentence each, and the owner goes on."""
        _, grant = opened
        spectator = site.cluster.directory.token_file("spectator").read_text().strip()
        admin = site.cluster.directory.token_file("admin").read_text().strip()
        asked = grant.request(1, 0)
        assert "not found" in self.refused(resumable(site, spectator), busybox, asked)
        assert "another user's" in self.refused(resumable(site, admin), busybox, asked)
        assert "token" in self.refused(resumable(site, "v2/zzzzz-gj3su-000000000000000/x"), busybox, asked)
        forged = Grant(grant.session, "0" * 64, 600)
        assert "does not prove" in self.refused(client, busybox, forged.request(1, 0))
        assert "go on from there" in self.refused(client, busybox, grant.request(1, 1 << 40))
        accepted = client.resume_session(busybox, "_", asked, DEADLINE, DEADLINE)  # the first one that is right
        assert grant.answered(accepted.resume, 1) == 0
        assert "used before" in self.refused(client, busybox, asked)
        accepted.connection.close()

    def test_entering_is_switched_off(self, site: Site, busybox: str, opened: tuple[AcceptedUpgrade, Grant]) -> None:
        """Where nobody may enter any more, no session comes back."""
        with site.controller("closed", Mode="disabled") as closed:
            said = self.refused(resumable(site, at=closed), busybox, opened[1].request(1, 0))
        assert "disabled" in said

    def test_permission_is_lost(self, site: Site, busybox: str, opened: tuple[AcceptedUpgrade, Grant]) -> None:
        """Where the user may not enter any more, the session does not come back."""
        with site.controller("strict", User=False) as strict:
            said = self.refused(resumable(site, at=strict), busybox, opened[1].request(1, 0))
        assert "not allowed" in said or "administrator" in said


def test_killed_while_it_waits(site: Site, busybox: str) -> None:
    """An administrator's kill holds: the session cannot come back, its program is gone, and the user reads why."""
    with site.user.session(busybox, command="echo ready; exec sleep 4711") as session:
        with site.breaker.down():
            (waiting,) = wait_for(lambda: site.sessions("waiting"))
            site.first.root.kill_shell_session(waiting["id"], "the node is needed")
        assert "an administrator ended this session: the node is needed" in ending(session)
    wait_for(lambda: site.beside.ssh(busybox, "ps | grep '[s]leep 4711'").returncode == 1, "the program to end")


def test_revoked_while_it_waits(site: Site, busybox: str) -> None:
    """A token that is revoked meanwhile brings nothing back, the user reads why, and the program ends without them."""
    root = site.cluster.api()
    made = root.create("api_client_authorizations", {"owner_uuid": USER_UUIDS["active"]})
    token = f"v2/{made['uuid']}/{made['api_token']}"
    user = Person(site.root / "revoked", site.first, token, ARVADOS_API_HOST=site.breaker.address)
    with user.session(busybox, command="echo ready; exec sleep 4712") as session:
        with site.breaker.down():
            wait_for(lambda: site.sessions("waiting"))
            root.delete("api_client_authorizations", made["uuid"])
        assert "can not go on: the API token is not valid" in ending(session)
    wait_for(lambda: site.beside.ssh(busybox, "ps | grep '[s]leep 4712'").returncode == 1, "the program to end")
    wait_for(lambda: not site.sessions("waiting"), "the session to leave")


def test_hopeless(site: Site, busybox: str) -> None:
    """When it has been tried for --resume-for, ssh ends with 255 and one sentence with the reason."""
    proxy = f"arvados-client ssh-proxy --resume-for 1 --known-hosts-dir {site.root}/home/known_hosts --user %r %h"
    with site.user.session(busybox, "-o", f"ProxyCommand={proxy}") as session, site.breaker.down():
        said = ending(session)
    assert "had no connection for 1 s (--resume-for)" in said


def test_their_time_is_over(site: Site, debian: str) -> None:
    """Sessions that nobody came back to in time have left nothing, neither in the gateway nor in the container; who
    comes late reads why."""
    with ExitStack() as stack:
        gateway = stack.enter_context(own_gateway(site, debian, "--sessions", '{"ResumeFor": 2}'))
        assert site.beside.ssh(debian, "true").returncode == 0  # what a first session makes stays
        before = held(gateway)
        sessions = [
            stack.enter_context(site.user.session(debian, command="echo ready; exec sleep 4713")) for _ in range(10)
        ]
        with site.breaker.down():
            wait_for(lambda: site.beside.ssh(debian, "pgrep -f 'sleep 471[3]'").returncode == 1, "the programs to end")
        for session in sessions:
            assert "can not go on: it had no connection for 2 s (Sessions.ResumeFor)" in ending(session)
        wait_for(lambda: held(gateway) == before, "the gateway to give everything back")
        wait_for(lambda: debian not in [one["container_uuid"] for one in site.sessions("waiting")], "them to leave")


def held(pid: int) -> tuple[int, int]:
    """Return how many descriptors and threads a process has."""
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))
