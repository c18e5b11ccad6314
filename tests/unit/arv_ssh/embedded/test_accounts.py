"""Users, groups and links of the embedded API."""

from __future__ import annotations

from typing import Any

import pytest

from arv_ssh.errors import Forbidden, NotFound, Unprocessable
from tests.unit.arv_ssh.embedded.cluster import ACTIVE, SPECTATOR, Cluster

ROOT = "zzzzz-tpzed-000000000000000"


def test_users_are_made_by_administrators(cluster: Cluster) -> None:
    """Root seeds a cluster with users of known UUIDs; they are active unless said otherwise."""
    made = cluster.root.create("users", {"uuid": "zzzzz-tpzed-aaaaaaaaaaaaaaa", "username": "ann", "first_name": "Ann"})
    assert (made["owner_uuid"], made["is_active"], made["is_admin"], made["full_name"]) == (ROOT, True, False, "Ann")
    with pytest.raises(Forbidden, match="only an administrator may make users"):
        cluster.active.create("users", {"username": "bob"})
    with pytest.raises(Unprocessable, match="username 'ann' is already taken"):
        cluster.root.create("users", {"username": "ann"})
    with pytest.raises(Unprocessable, match="username 'ann' is already taken"):
        cluster.root.update("users", ACTIVE, {"username": "ann"})


def test_users_change_little_of_themselves(cluster: Cluster) -> None:
    """A user changes their name, not their rights; of others they know nothing."""
    assert cluster.active.update("users", ACTIVE, {"first_name": "Act"})["first_name"] == "Act"
    for change in ({"is_admin": True}, {"is_active": False}, {"username": "root2"}, {"email": "x"}):
        with pytest.raises(Unprocessable, match="by anyone but an administrator"):
            cluster.active.update("users", ACTIVE, change)
    with pytest.raises(NotFound):
        cluster.active.update("users", SPECTATOR, {"first_name": "x"})


def test_root_stays_root(cluster: Cluster) -> None:
    """The cluster's own user cannot be shut out, and no user is deleted."""
    for change in ({"is_admin": False}, {"is_active": False}):
        with pytest.raises(Unprocessable, match="the cluster's own"):
            cluster.root.update("users", ROOT, change)
    with pytest.raises(Forbidden, match="set is_active to false"):
        cluster.root.delete("users", ACTIVE)


def test_groups(cluster: Cluster) -> None:
    """A user makes, renames and deletes a project; one that owns something stays."""
    outer = cluster.active.create("groups", {"name": "p", "group_class": "project"})
    inner = cluster.active.create("groups", {"group_class": "project", "owner_uuid": outer["uuid"]})
    assert cluster.active.update("groups", inner["uuid"], {"name": "q"})["name"] == "q"
    with pytest.raises(Unprocessable, match="still owns groups"):
        cluster.active.delete("groups", outer["uuid"])
    for group in (inner, outer):
        cluster.active.delete("groups", group["uuid"])
    with pytest.raises(Unprocessable, match="group_class must be role or project"):
        cluster.active.create("groups", {"group_class": "club"})
    with pytest.raises(Unprocessable, match="owner_uuid"):
        cluster.active.create("groups", {"owner_uuid": SPECTATOR})


def test_deleted_group_gives_nothing(cluster: Cluster) -> None:
    """With a group, the permissions that it gave are gone."""
    request = cluster.submit()
    group = cluster.root.create("groups", {})["uuid"]
    for tail, head in ((SPECTATOR, group), (group, request["uuid"])):
        link = {"link_class": "permission", "name": "can_read", "tail_uuid": tail, "head_uuid": head}
        cluster.root.create("links", link)
    assert cluster.spectator.list("container_requests")["items_available"] == 1
    cluster.root.delete("groups", group)
    assert cluster.spectator.list("container_requests")["items_available"] == 0
    assert cluster.root.list("links")["items_available"] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"link_class": None}, {"link_class": ""}, {"name": "can_fly"}, {"name": None}, {"tail_uuid": None},
        {"tail_uuid": "zzzzz-tpzed-aaaaaaaaaaaaaaa"}, {"tail_uuid": "zzzzz-j7d0g-aaaaaaaaaaaaaaa"}, {"tail_uuid": "x"},
        {"head_uuid": None}, {"head_uuid": "x"}, {"head_uuid": "zzzzz-4zz18-aaaaaaaaaaaaaaa"},
        {"head_uuid": "zzzzz-gj3su-aaaaaaaaaaaaaaa"}, {"head_uuid": "zzzzz-dz642-aaaaaaaaaaaaaaa"},
    ],
)  # fmt: skip
def test_permissions_that_cannot_be(cluster: Cluster, change: dict[str, Any]) -> None:
    """A permission has a known name, somebody at its tail and something at its head."""
    link = {"link_class": "permission", "name": "can_read", "tail_uuid": SPECTATOR, "head_uuid": ACTIVE}
    with pytest.raises((Unprocessable, NotFound)):
        cluster.root.create("links", link | change)
    assert cluster.root.list("links")["items_available"] == 0
