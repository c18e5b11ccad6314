"""Collections of the embedded API: saved, found by UUID and by content, named, shared, trashed; never too many."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from arv_ssh.embedded import collections
from arv_ssh.errors import Forbidden, Unprocessable
from tests.unit.arv_ssh.embedded.cluster import ACTIVE, ADMIN, SPECTATOR, Cluster

TEXT = ". acbd18db4cc2f85cedef654fccc4a4d8+3 0:3:foo\n"
HASH = "1f4b0bc7583c2a7f9102c395f4ffc5e3+45"
"""What Arvados itself computes for it."""
PATH = "/arvados/v1/collections"


@pytest.fixture
def token(cluster: Cluster) -> str:
    return cluster.token(ACTIVE)


def make(cluster: Cluster, token: str, *, status: int = 200, **attributes: Any) -> dict[str, Any]:
    """Make a collection as a stock crunch-run does: parameters beside the record."""
    parameters = {name: attributes.pop(name) for name in ("ensure_unique_name", "select") if name in attributes}
    body = {"collection": {"manifest_text": TEXT} | attributes} | parameters
    got, answer = cluster.call("POST", PATH, token=token, body=body)
    assert got == status, answer
    return answer


def test_create_and_get(cluster: Cluster, token: str) -> None:
    """A collection has what follows from its manifest, and is found by its UUID and by its content."""
    made = make(cluster, token, name="one")
    assert (made["portable_data_hash"], made["kind"]) == (HASH, "arvados#collection")
    assert (made["file_count"], made["file_size_total"], made["owner_uuid"]) == (1, 3, ACTIVE)
    assert (made["version"], made["current_version_uuid"], made["is_trashed"]) == (1, made["uuid"], False)
    assert cluster.active.get("collections", made["uuid"]) == made
    for name in (HASH, f"{HASH}+A0123@5f"):
        assert cluster.call("GET", f"{PATH}/{name}", token=token) == (200, {
            "kind": "arvados#collection", "uuid": HASH, "portable_data_hash": HASH, "manifest_text": TEXT,
            "trash_at": None,
        })  # fmt: skip
    assert cluster.call("GET", f"{PATH}/{HASH}", {"select": '["uuid"]'}, token=token)[1].keys() == {"kind", "uuid"}
    assert "portable data hash" in cluster.call("GET", f"{PATH}/{HASH}1", token=token)[1]["errors"][0]


def test_select(cluster: Cluster, token: str) -> None:
    """A client gets the attributes that it asked for; a list has no manifests unless asked for."""
    made = make(cluster, token, select=["uuid", "portable_data_hash"])
    assert made.keys() == {"kind", "uuid", "portable_data_hash"}
    (listed,) = cluster.active.list("collections")["items"]
    assert "manifest_text" not in listed and "manifest_size" not in listed and listed["file_count"] == 1
    (listed,) = cluster.active.list("collections", select=["manifest_text"])["items"]
    assert listed["manifest_text"] == TEXT


def test_update(cluster: Cluster, token: str) -> None:
    """A new manifest brings a new content; a record is sent back as it came; a wrong hash is refused."""
    made = make(cluster, token)
    assert cluster.active.update("collections", made["uuid"], made)["portable_data_hash"] == made["portable_data_hash"]
    updated = cluster.active.update("collections", made["uuid"], {"manifest_text": ""})
    assert updated["portable_data_hash"] == "d41d8cd98f00b204e9800998ecf8427e+0" and updated["file_count"] == 0
    for wrong in ({"portable_data_hash": HASH[::-1]}, {"manifest_text": TEXT, "portable_data_hash": "0" * 32 + "+1"}):
        with pytest.raises(Unprocessable, match="is not that of manifest_text"):
            cluster.active.update("collections", made["uuid"], wrong)
    with pytest.raises(Unprocessable, match="line 1 of manifest_text"):
        cluster.active.update("collections", made["uuid"], {"manifest_text": "x\n"})


def test_names(cluster: Cluster, token: str) -> None:
    """An owner's collections have different names; ensure_unique_name makes one. In the trash a name is free."""
    first = make(cluster, token, name="logs")
    assert "another collection of the name 'logs'" in make(cluster, token, status=422, name="logs")["errors"][0]
    second = make(cluster, token, name="logs", ensure_unique_name=True)
    assert second["name"].startswith("logs (20") and make(cluster, token, name="")["name"] is None
    assert make(cluster, cluster.token(SPECTATOR), name="logs")["name"] == "logs"
    cluster.active.delete("collections", first["uuid"])
    assert make(cluster, token, name="logs")["name"] == "logs"
    make(cluster, token, name="x", ensure_unique_name="maybe", status=400)


def test_permissions(cluster: Cluster, token: str) -> None:
    """Others do not see it, by no name; who may read it may not change it; only who manages it gives it away."""
    made = make(cluster, token)
    other = cluster.token(SPECTATOR)
    for name in (made["uuid"], HASH):
        assert cluster.call("GET", f"{PATH}/{name}", token=other)[0] == 404
    link = {"link_class": "permission", "name": "can_read", "tail_uuid": SPECTATOR, "head_uuid": made["uuid"]}
    shared = cluster.active.create("links", link)
    for name in (made["uuid"], HASH):
        assert cluster.call("GET", f"{PATH}/{name}", token=other)[1]["manifest_text"] == TEXT
    with pytest.raises(Forbidden):
        cluster.spectator.update("collections", made["uuid"], {"name": "mine"})
    cluster.active.update("links", shared["uuid"], {"name": "can_write"})
    with pytest.raises(Forbidden, match="not give it to another owner"):
        cluster.spectator.update("collections", made["uuid"], {"owner_uuid": SPECTATOR})
    with pytest.raises(Unprocessable, match="is not a user or group that may own"):
        make_for = {"owner_uuid": ADMIN, "manifest_text": TEXT}
        cluster.active.create("collections", make_for)


def test_trash(cluster: Cluster, token: str) -> None:
    """In the trash it is there for who asks for it, can be taken back, and is deleted in time."""
    made = make(cluster, token, is_trashed=True)
    kept_until = datetime.fromisoformat(made["delete_at"]) - datetime.fromisoformat(made["trash_at"])
    assert made["is_trashed"] and kept_until == timedelta(days=14)
    one = f"{PATH}/{made['uuid']}"
    for name in (made["uuid"], HASH):
        assert cluster.call("GET", f"{PATH}/{name}", token=token)[0] == 404
        assert cluster.call("GET", f"{PATH}/{name}", {"include_trash": "true"}, token=token)[0] == 200
    assert cluster.active.list("collections")["items"] == []
    body = {"collection": {"is_trashed": False}, "include_trash": True}
    status, back = cluster.call("PATCH", one, token=token, body=body)
    assert (status, back["trash_at"], back["delete_at"], back["is_trashed"]) == (200, None, None, False)
    past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    cluster.active.update("collections", made["uuid"], {"trash_at": past, "delete_at": past})
    make(cluster, token)
    assert cluster.call("GET", one, {"include_trash": "true"}, token=token)[0] == 404


def test_later_trash(cluster: Cluster, token: str) -> None:
    """A log under way is for two weeks, as a stock crunch-run asks, and still there until then."""
    later = (datetime.now(UTC) + timedelta(days=14)).isoformat()
    made = make(cluster, token, trash_at=later, delete_at=later)
    assert not made["is_trashed"] and made["trash_at"] == made["delete_at"]
    assert cluster.active.update("collections", made["uuid"], {"is_trashed": True})["is_trashed"]
    with pytest.raises(Unprocessable, match="is before its trash_at"):
        cluster.active.create("collections", {"trash_at": later, "delete_at": datetime.now(UTC).isoformat()})


def test_limits(cluster: Cluster, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user has so many collections, and so much of manifests, and no more."""
    monkeypatch.setattr(collections, "MOST", 2)
    made = [make(cluster, token) for _ in range(2)]
    assert "is the most, so delete some first" in make(cluster, token, status=422)["errors"][0]
    monkeypatch.setattr(collections, "MOST_BYTES", 2 * len(TEXT))
    cluster.active.update("collections", made[0]["uuid"], {"manifest_text": ""})
    with pytest.raises(Unprocessable, match="is the most"):
        cluster.active.update("collections", made[0]["uuid"], {"manifest_text": TEXT * 2})


def test_container_token(cluster: Cluster) -> None:
    """A container's own token makes and reads its user's collections, as arv-mount and the copying of output do."""
    own = cluster.container_client(cluster.container("Running"))
    made = own.create("collections", {"manifest_text": TEXT, "is_trashed": True})
    assert made["owner_uuid"] == ACTIVE
    other = cluster.active.create("collections", {"manifest_text": TEXT})
    assert own.get("collections", other["uuid"]) and own.list("collections")["items"]
    with pytest.raises(Forbidden, match="not in its scopes"):
        own.update("collections", other["uuid"], {})
    with pytest.raises(Forbidden, match="not in its scopes"):
        own.delete("collections", other["uuid"])
