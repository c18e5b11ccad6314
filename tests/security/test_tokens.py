"""API tokens that should open nothing: revoked, limited, expired, another cluster's, a container's own."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import paramiko
import pytest
import requests

from arv_ssh.trust import credentials
from tests.integration.clients import transport_over
from tests.security.conftest import Site
from tests.timing import DEADLINE


def new_token(site: Site, **attributes: Any) -> tuple[str, str]:
    """Make a token of the active user's; return its UUID and the token."""
    active = site.controller.root.with_token(site.token(), "req-sec").current_user()["uuid"]
    made = site.controller.root.create("api_client_authorizations", {"owner_uuid": active, **attributes})
    return made["uuid"], f"v2/{made['uuid']}/{made['api_token']}"


def test_a_good_token(site: Site) -> None:
    """The others below differ from this one in the one thing that their names say."""
    assert site.controller.status(site.busybox, new_token(site)[1]) == (101, "")


def test_revoked(site: Site) -> None:
    """A token that was deleted opens nothing, from that moment."""
    uuid, token = new_token(site)
    assert site.controller.asked(site.busybox, token) == 200
    site.controller.root.delete("api_client_authorizations", uuid)
    assert site.controller.status(site.busybox, token)[0] == 401
    assert site.controller.asked(site.busybox, token) == 401


def test_expired(site: Site) -> None:
    """A token opens nothing after its time."""
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    status, sentence = site.controller.status(site.busybox, new_token(site, expires_at=past)[1])
    assert status == 401 and "expired" in sentence


@pytest.mark.parametrize(
    "scope",
    ["GET /arvados/v1/", "POST /arvados/v1/", "GET /arvados/v1/containers/", "GET /arvados/v1/users/current"],
)  # fmt: skip
def test_limited(site: Site, scope: str) -> None:
    """A token for some requests enters no container, whichever they are: a shell can do more than any of them."""
    scopes = [scope, "GET /arvados/v1/users/current", "GET /arvados/v1/api_client_authorizations/current"]
    token = new_token(site, scopes=scopes)[1]
    assert site.controller.status(site.busybox, token)[0] == 403
    assert site.controller.asked(site.busybox, token) == 403


@pytest.mark.parametrize(
    "change", ["another cluster's", "another secret", "cut", "secret alone, changed", "upper case"]
)
def test_not_of_this_cluster(site: Site, change: str) -> None:
    """A token that this cluster did not make is 401, however like one of its own it looks."""
    version, uuid, secret = site.token().split("/")
    token = {
        "another cluster's": f"{version}/yyyyy{uuid[5:]}/{secret}",
        "another secret": f"{version}/{uuid}/{secret[::-1]}",
        "cut": f"{version}/{uuid}/{secret[:-1]}",
        "secret alone, changed": f"{secret[:-1]}!",
        "upper case": f"{version}/{uuid}/{secret.upper()}",
    }[change]
    status, sentence = site.controller.status(site.busybox, token)
    assert status == 401 and token not in sentence and secret not in sentence


def test_another_users(site: Site) -> None:
    """A user who cannot read the container is told that there is none."""
    assert site.controller.status(site.busybox, site.token("spectator"))[0] == 404


def containers_token(site: Site, uuid: str) -> str:
    """Return the token that a container's crunch-run has, as a thief of its node would find it."""
    auth = site.controller.root.get("containers", uuid)["auth_uuid"]
    return f"v2/{auth}/{credentials.container_token(site.controller.root_token, auth)}"


def test_a_stolen_nodes_token(site: Site) -> None:
    """A container's own token enters no container, reads no other one, and lists no requests."""
    token = containers_token(site, site.busybox)
    assert site.controller.status(site.busybox, token)[0] == 403
    assert site.controller.status(site.debian, token)[0] == 403
    base = f"https://{site.controller.address}/arvados/v1"
    statuses = {
        path: requests.get(
            f"{base}/{path}", headers={"Authorization": f"Bearer {token}"}, verify=str(site.cluster.directory.ca),
            timeout=DEADLINE,
        ).status_code
        for path in (f"containers/{site.busybox}", f"containers/{site.debian}", "container_requests", "users",
                     f"containers/{site.busybox}/auth", "api_client_authorizations")
    }  # fmt: skip
    assert statuses.pop(f"containers/{site.busybox}") == 200  # its own record, so the token is a real one
    assert set(statuses.values()) == {403}


def test_a_stolen_nodes_secret(site: Site) -> None:
    """A container's secret says nothing of another container's."""
    known, wanted = site.secret(site.busybox), site.secret(site.debian)
    assert wanted not in (known, credentials.container_secret(known, site.debian))


def test_another_sessions_credential(site: Site) -> None:
    """The password of one session is wrong in another one of the same user and container."""
    first, connection = site.controller.ask_for_session(site.busybox, site.token())
    connection.close()
    answer, connection = site.controller.ask_for_session(site.busybox, site.token())
    stolen = first.headers["x-arvados-ssh-user-credential"]
    with closing(connection), transport_over(connection) as transport:
        transport.start_client(timeout=DEADLINE)
        with pytest.raises(paramiko.AuthenticationException):
            transport.auth_password("_", stolen)
        assert transport.auth_password("_", answer.headers["x-arvados-ssh-user-credential"]) == []


@pytest.mark.parametrize("name", ["root", "", "crunch"])
def test_another_login_name(site: Site, name: str) -> None:
    """Within SSH nobody gets to be another user of the container than the one that the controller signed."""
    _, connection = site.controller.ask_for_session(site.debian, site.token())
    with closing(connection), transport_over(connection) as transport:
        transport.start_client(timeout=DEADLINE)
        with pytest.raises(paramiko.SSHException):
            transport.auth_none(name)
