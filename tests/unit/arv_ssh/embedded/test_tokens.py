"""Tokens of the embedded API: authentication, scopes, revocation, and what the database file holds of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.errors import Forbidden, NotFound, Unauthorized, Unprocessable
from tests.unit.arv_ssh.embedded.cluster import ACTIVE, ADMIN, ROOT_TOKEN, SPECTATOR, Cluster

CURRENT = "/arvados/v1/users/current"
TOKENS = "/arvados/v1/api_client_authorizations"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "OAuth2"])
@pytest.mark.parametrize("form", ["v2/{uuid}/{secret}", "{secret}", "v2/{uuid}/{secret}/zzzzz-dz642-abcdeabcdeabcde"])
def test_forms_of_a_token(cluster: Cluster, scheme: str, form: str) -> None:
    """A token is taken as v2 (also with a container's UUID after it) and bare, with both schemes."""
    _, uuid, secret = cluster.token(ACTIVE).split("/")
    headers = {"authorization": f"{scheme} {form.format(uuid=uuid, secret=secret)}"}
    status, user = cluster.call("GET", CURRENT, token="", headers=headers)
    assert (status, user["uuid"]) == (200, ACTIVE)


@pytest.mark.parametrize("token", [ROOT_TOKEN, f"v2/zzzzz-gj3su-000000000000000/{ROOT_TOKEN}"])
def test_root_token(cluster: Cluster, token: str) -> None:
    """The SystemRootToken is root's, bare or as v2; the API never sends it back."""
    assert cluster.call("GET", CURRENT, token=token)[1]["uuid"] == "zzzzz-tpzed-000000000000000"
    current = cluster.call("GET", f"{TOKENS}/current", token=token)[1]
    assert (current["uuid"], current["api_token"]) == ("zzzzz-gj3su-000000000000000", None)


@pytest.mark.parametrize(
    ("authorization", "message"),
    [
        (None, "no API token was sent"),
        ("", "no API token was sent"),
        ("Bearer", "no API token was sent"),
        ("Bearer ", "no API token was sent"),
        ("Basic dXNlcjpwYXNz", "no API token was sent"),
        ("Bearer nonsense", "is not valid on cluster zzzzz"),
        ("Bearer \xff\xfe", "is not valid on cluster zzzzz"),
        (f"Bearer {ROOT_TOKEN[:-1]}", "is not valid"),
        (f"Bearer {ROOT_TOKEN}x", "is not valid"),
        (f"Bearer v2/zzzzz-gj3su-abcdeabcdeabcde/{ROOT_TOKEN}", "is not valid"),
        ("Bearer v2/zzzzz-gj3su-000000000000000/x", "is not valid"),
        ("Bearer v2/", "should be v2/UUID/SECRET"),
        ("Bearer v2/zzzzz-gj3su-000000000000000/", "should be v2/UUID/SECRET"),
        ("Bearer v2/zzzzz-tpzed-000000000000000/x", "should be v2/UUID/SECRET"),
    ],
)
def test_bad_tokens(cluster: Cluster, authorization: str | None, message: str) -> None:
    """No token, or one that is not valid, is a 401 that says which of the two, and does not repeat the token."""
    headers = {} if authorization is None else {"authorization": authorization}
    status, answer = cluster.call("GET", CURRENT, token="", headers=headers)
    assert status == 401 and message in answer["errors"][0]
    assert ROOT_TOKEN[:-1] not in answer["errors"][0]


def test_secret_of_another_token(cluster: Cluster) -> None:
    """UUID and secret of a v2 token belong together."""
    mine, theirs = cluster.token(ACTIVE).split("/"), cluster.token(ADMIN).split("/")
    assert cluster.call("GET", CURRENT, token=f"v2/{theirs[1]}/{mine[2]}")[0] == 401


def test_digest_is_no_token(cluster: Cluster) -> None:
    """What the database holds of a token does not open anything."""
    from arv_ssh.trust import credentials

    digest = credentials.token_digest(ROOT_TOKEN, cluster.token(ACTIVE).split("/")[2])
    assert cluster.call("GET", CURRENT, token=digest)[0] == 401


def test_revoked_token(cluster: Cluster) -> None:
    """A deleted token is dead at once."""
    token = cluster.token(ACTIVE)
    cluster.active.delete("api_client_authorizations", token.split("/")[1])
    with pytest.raises(Unauthorized, match="revoked"):
        cluster.client(token).current_user()


def test_expired_token(cluster: Cluster) -> None:
    """A token works until it expires, and then says since when it does not."""
    token = cluster.token(ACTIVE, expires_at="2999-01-01T00:00:00Z")
    assert cluster.client(token).current_user()["uuid"] == ACTIVE
    cluster.active.update("api_client_authorizations", token.split("/")[1], {"expires_at": "2020-01-01T00:00:00Z"})
    with pytest.raises(Unauthorized, match="expired at 2020-01-01T00:00:00.000000000Z; get a new one"):
        cluster.client(token).current_user()


def test_scopes(cluster: Cluster) -> None:
    """A token for part of the API does that part, exactly or below a path, and is not an administrator's otherwise."""
    token = cluster.token(ADMIN, scopes=[f"GET {CURRENT}", "GET /arvados/v1/containers/"])
    client = cluster.client(token)
    assert client.current_user()["uuid"] == ADMIN
    with pytest.raises(NotFound):  # it is no administrator's, who would see all
        client.get("containers", cluster.container("Queued"))
    calls: list[Callable[[], Any]] = [
        lambda: client.list("containers"), lambda: client.list("users"), lambda: client.create("users", {}),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(Forbidden, match="not in its scopes"):
            call()
    for scopes in ([], [1], [""]):
        with pytest.raises(Unprocessable, match="scopes"):
            cluster.token(ADMIN, scopes=scopes)


def test_token_record(cluster: Cluster) -> None:
    """A token's secret is in the answer that makes it, and to its bearer; never in a list or a get."""
    made = cluster.active.create("api_client_authorizations", {})
    assert made["owner_uuid"] == ACTIVE and made["scopes"] == ["all"] and len(made["api_token"]) == 50
    client = cluster.client(f"v2/{made['uuid']}/{made['api_token']}")
    assert client.get("api_client_authorizations", "current")["api_token"] == made["api_token"]
    shown: list[dict[str, Any]] = client.list_all("api_client_authorizations")
    shown.append(cluster.root.get("api_client_authorizations", made["uuid"]))
    assert {record["owner_uuid"] for record in shown} == {ACTIVE}
    assert not any("api_token" in record or "digest" in record for record in shown)


def test_tokens_of_others(cluster: Cluster) -> None:
    """Only an administrator makes tokens for others, or sees theirs."""
    with pytest.raises(Forbidden, match="only an administrator"):
        cluster.active.create("api_client_authorizations", {"owner_uuid": SPECTATOR})
    with pytest.raises(Unprocessable, match="is not a user"):
        cluster.root.create("api_client_authorizations", {"owner_uuid": "zzzzz-tpzed-aaaaaaaaaaaaaaa"})
    uuid = cluster.token(ADMIN).split("/")[1]
    for call in (cluster.active.get, cluster.active.delete):
        with pytest.raises(NotFound):
            call("api_client_authorizations", uuid)


def test_container_token_belongs_to_the_container(cluster: Cluster) -> None:
    """The user in whose name a container runs can neither widen nor revoke its token."""
    uuid = cluster.container("Locked")
    auth = cluster.root.container_auth(uuid)
    with pytest.raises(Unprocessable, match=f"keeps container {uuid}"):
        cluster.active.update("api_client_authorizations", auth["uuid"], {"scopes": ["all"]})
    with pytest.raises(Unprocessable, match="cancel the container instead"):
        cluster.active.delete("api_client_authorizations", auth["uuid"])
    assert cluster.root.container_auth(uuid)["api_token"] == auth["api_token"]


def test_inactive_user(cluster: Cluster) -> None:
    """A user who is not active can ask who they are, and nothing else."""
    cluster.root.update("users", ACTIVE, {"is_active": False})
    assert cluster.active.current_user()["is_active"] is False
    with pytest.raises(Forbidden, match="is not active"):
        cluster.active.list("containers")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_no_usable_token_in_the_database(cluster: Cluster, tmp_path: Path) -> None:
    """The database's files hold no token, of users, of containers, or the cluster's own, in any form."""
    uuid = cluster.container("Locked")
    secrets = [cluster.token(ACTIVE).split("/")[2], cluster.root.container_auth(uuid)["api_token"], ROOT_TOKEN]
    files = sorted(tmp_path.glob("db.sqlite*"))
    assert [file.name for file in files] == ["db.sqlite", "db.sqlite-shm", "db.sqlite-wal"]
    contents = b"".join(file.read_bytes() for file in files)
    assert uuid.encode() in contents
    for secret in secrets:
        assert secret.encode() not in contents
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
