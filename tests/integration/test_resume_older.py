"""Sessions where one of client, controller and gateway knows nothing of resuming: the stream is what it was before."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from arv_ssh.client.controller import AcceptedUpgrade
from arv_ssh.resume.negotiation import read_grant
from tests.integration.controllers import Controller, start, write_config
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.people import ECHO, Person, answers, ending
from tests.integration.resume_site import POLICY, Site, own_gateway, patched, resumable, resume_site
from tests.timing import DEADLINE, wait_for

OLD = """
from arv_ssh.resume import negotiation
negotiation.read_request = lambda text: None
"""
"""What makes a controller or a gateway one that takes no notice of the header, in requests as in its own."""


@pytest.fixture(scope="module")
def site(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A controller with a breaker before it."""
    with resume_site(cluster, tmp_path_factory.mktemp("older")) as one:
        yield one


@contextmanager
def old_controller(site: Site) -> Iterator[Controller]:
    """Run a controller that knows nothing of resuming."""
    place = Path(tempfile.mkdtemp(dir=site.root))
    options = ["--listen", "127.0.0.1:0", "--drain-timeout", "0"]
    wrapper = ("env", *(f"{name}={value}" for name, value in patched(site.root / "old", OLD).items()))
    file = write_config(site.cluster, place, POLICY)
    with start(site.cluster, file, place / "controller.log", options, wrapper) as process:
        yield process.wait_until_it_listens()


@contextmanager
def world(site: Site, uuid: str, old: str) -> Iterator[tuple[Controller, str]]:
    """Give a controller and ssh's ProxyCommand, where ``old`` is one that knows nothing of resuming."""
    with ExitStack() as stack:
        one = stack.enter_context(old_controller(site)) if old == "controller" else site.first
        if old == "gateway":
            stack.enter_context(own_gateway(site, uuid, environment=patched(site.root / "old", OLD)))
        site.breaker.target = one.address
        stack.callback(setattr, site.breaker, "target", site.first.address)
        options = "--no-resume" if old == "client" else ""
        yield one, f"arvados-client ssh-proxy {options} --known-hosts-dir {site.root}/home/known_hosts --user %r %h"


def beginning(session: AcceptedUpgrade) -> bytes:
    """Return the first bytes that come from the gateway."""
    session.connection.sock.settimeout(DEADLINE)
    data, room = bytes(session.first), memoryview(bytearray(100))
    while not data:
        session.connection.engine.receive(session.connection.sock.recv(65536))
        data = bytes(room[: session.connection.engine.read_into(room)])
    return data


@pytest.mark.parametrize("old", ["client", "controller", "gateway"])
def test_the_stream_is_what_it_was(site: Site, debian: str, old: str) -> None:
    """Whoever of the three does not know the header, SSH's bytes pass as they are, and end with the connection."""
    payload = os.urandom(5_000_000)
    with world(site, debian, old) as (one, proxy):
        client = resumable(site, at=one)
        client.resumable = old != "client"
        session = client.open_session(debian, "_", "")
        assert session.resume == ""
        assert beginning(session).startswith(b"SSH-2.0-")
        session.connection.close()
        way = ("-o", f"ProxyCommand={proxy}")
        with site.running(debian, "sha256sum; exit 3", *way) as process:
            out, err = process.communicate(payload, DEADLINE)
            assert (process.returncode, err) == (3, b"")
            assert out.split()[0].decode() == hashlib.sha256(payload).hexdigest()
        with site.user.session(debian, *way) as cut:
            assert not site.sessions("open", one)[0]["waiting_since"]
            site.breaker.reset()
            assert "the connection to" in ending(cut)
            assert not site.sessions("waiting", one)


def test_all_know_it(site: Site, debian: str) -> None:
    """Where all three know it, the session is granted, and its bytes are framed: the tests above look at something."""
    session = resumable(site).open_session(debian, "_", "")
    assert read_grant(session.resume) is not None
    assert not beginning(session).startswith(b"SSH-2.0-")
    session.connection.close()


def test_an_old_controller_amid_a_session(site: Site, debian: str) -> None:
    """What an old controller begins instead of going on never comes to ssh; a newer one still has the session."""
    with old_controller(site) as old, site.user.session(debian, command=ECHO) as session:
        try:
            site.breaker.target = old.address
            site.breaker.reset()
            wait_for(lambda: "session opened" in old.log.read_text(), "the old controller to begin a session")
        finally:
            site.breaker.target = site.first.address
        answers(session, "the same")


def test_switched_off(site: Site, busybox: str) -> None:
    """``ssh-config --resume-for 0`` does the same as --no-resume."""
    user = Person(
        site.root / "off", site.first, site.user.token, resumes=False, ARVADOS_API_HOST=site.breaker.address
    )
    with user.session(busybox) as session:
        site.breaker.reset()
        assert "the connection to" in ending(session)
