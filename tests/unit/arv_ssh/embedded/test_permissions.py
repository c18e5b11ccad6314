"""Who may read, change and manage a record of the embedded API."""

from __future__ import annotations

import pytest

from arv_ssh.errors import Forbidden, NotFound, Unprocessable
from tests.unit.arv_ssh.embedded.cluster import ACTIVE, SPECTATOR, WORK, Cluster


def share(cluster: Cluster, tail: str, head: str, name: str = "can_read") -> str:
    """Give a permission as root; return the link's UUID."""
    link = {"link_class": "permission", "name": name, "tail_uuid": tail, "head_uuid": head}
    return str(cluster.root.create("links", link)["uuid"])


def group(cluster: Cluster, group_class: str = "role", **attributes: str) -> str:
    """Make a group as root; return its UUID."""
    return str(cluster.root.create("groups", {"group_class": group_class, **attributes})["uuid"])


def test_owner_and_stranger(cluster: Cluster) -> None:
    """A request and its container are read by their owner and by administrators; for others they do not exist."""
    request = cluster.submit()
    for client in (cluster.active, cluster.admin, cluster.root):
        assert client.get("containers", request["container_uuid"])["state"] == "Queued"
        assert len(client.list_all("container_requests")) == 1
    for resource, uuid in (("containers", request["container_uuid"]), ("container_requests", request["uuid"])):
        with pytest.raises(NotFound, match=f"{uuid} was not found among what user {SPECTATOR} may read"):
            cluster.spectator.get(resource, uuid)
        assert cluster.spectator.list(resource)["items_available"] == 0


@pytest.mark.parametrize("linked", ["container_requests", "containers"])
def test_can_read(cluster: Cluster, linked: str) -> None:
    """A can_read link to the request (or to the container itself) lets the container be read, until it is deleted."""
    request = cluster.submit()
    link = share(cluster, SPECTATOR, request["uuid" if linked == "container_requests" else "container_uuid"])
    assert cluster.spectator.get("containers", request["container_uuid"])["uuid"] == request["container_uuid"]
    if linked == "container_requests":
        with pytest.raises(Forbidden, match="may read container request .* but not change it"):
            cluster.spectator.update("container_requests", request["uuid"], {"priority": 0})
        with pytest.raises(Forbidden, match="but not manage it"):
            cluster.spectator.delete("container_requests", request["uuid"])
    cluster.root.delete("links", link)
    with pytest.raises(NotFound):
        cluster.spectator.get("containers", request["container_uuid"])


def test_can_write_and_can_manage(cluster: Cluster) -> None:
    """can_write lets a request be changed, can_manage also deleted."""
    request = cluster.submit()
    link = share(cluster, SPECTATOR, request["uuid"], "can_write")
    assert cluster.spectator.update("container_requests", request["uuid"], {"name": "x"})["name"] == "x"
    with pytest.raises(Forbidden):
        cluster.spectator.delete("container_requests", request["uuid"])
    cluster.root.update("links", link, {"name": "can_manage"})
    cluster.spectator.delete("container_requests", request["uuid"])


def test_owner_gives_and_takes_permissions(cluster: Cluster) -> None:
    """An owner shares a request and takes it back; nobody gives what they do not manage, not even to themselves."""
    request = cluster.submit()
    link = {"link_class": "permission", "name": "can_read", "tail_uuid": SPECTATOR, "head_uuid": request["uuid"]}
    with pytest.raises(NotFound):
        cluster.spectator.create("links", link)
    made = cluster.active.create("links", link)
    assert (made["head_kind"], made["tail_kind"]) == ("arvados#containerRequest", "arvados#user")
    assert [item["uuid"] for item in cluster.spectator.list("links")["items"]] == [made["uuid"]]
    for name in ("can_write", "can_manage"):
        with pytest.raises(Forbidden):
            cluster.spectator.update("links", made["uuid"], {"name": name})
        with pytest.raises(Forbidden):
            cluster.spectator.create("links", link | {"name": name})
    cluster.active.delete("links", made["uuid"])
    with pytest.raises(NotFound):
        cluster.spectator.get("container_requests", request["uuid"])


def test_role(cluster: Cluster) -> None:
    """What a group may read, its members may read, and groups may be in groups, even in a circle."""
    request, outer, inner = cluster.submit(), group(cluster), group(cluster)
    share(cluster, SPECTATOR, inner)
    share(cluster, inner, outer)
    share(cluster, outer, inner)
    membership = share(cluster, outer, request["uuid"], "can_manage")
    assert cluster.spectator.get("containers", request["container_uuid"])["state"] == "Queued"
    with pytest.raises(Forbidden):  # the weakest link of the chain counts
        cluster.spectator.update("container_requests", request["uuid"], {"name": "x"})
    cluster.root.delete("links", membership)
    with pytest.raises(NotFound):
        cluster.spectator.get("containers", request["container_uuid"])


def test_project(cluster: Cluster) -> None:
    """What a project owns is read by who may read the project; to give it something takes can_write."""
    project = group(cluster, "project", owner_uuid=ACTIVE)
    request = cluster.active.create("container_requests", WORK | {"owner_uuid": project})
    with pytest.raises(NotFound):
        cluster.spectator.get("container_requests", request["uuid"])
    share(cluster, SPECTATOR, project)
    assert cluster.spectator.get("container_requests", request["uuid"])["owner_uuid"] == project
    with pytest.raises(Unprocessable, match="owner_uuid"):
        cluster.spectator.create("container_requests", WORK | {"owner_uuid": project})
    share(cluster, SPECTATOR, project, "can_write")
    cluster.spectator.create("container_requests", WORK | {"owner_uuid": project})


def test_what_a_user_has_is_not_shared_with_the_user(cluster: Cluster) -> None:
    """can_read to a user shows the user; only can_manage opens what the user owns."""
    request = cluster.submit()
    share(cluster, SPECTATOR, ACTIVE)
    assert cluster.spectator.get("users", ACTIVE)["username"] == "active"
    with pytest.raises(NotFound):
        cluster.spectator.get("container_requests", request["uuid"])
    share(cluster, SPECTATOR, ACTIVE, "can_manage")
    assert cluster.spectator.get("container_requests", request["uuid"])["uuid"] == request["uuid"]


def test_other_links_give_nothing(cluster: Cluster) -> None:
    """A link of another class is a note, whatever its name."""
    request = cluster.submit()
    note = {"link_class": "star", "name": "can_manage", "tail_uuid": SPECTATOR, "head_uuid": request["uuid"]}
    cluster.spectator.create("links", note)
    with pytest.raises(NotFound):
        cluster.spectator.get("container_requests", request["uuid"])
