"""Container requests of the embedded API: commit, cancel, delete, attribution."""

from __future__ import annotations

from typing import Any

import pytest

from arv_ssh.api.client import ApiClient
from arv_ssh.config.cluster_config import ShellAccess
from arv_ssh.errors import Forbidden, NotFound, Unprocessable
from arv_ssh.trust import access
from tests.unit.arv_ssh.embedded.cluster import ACTIVE, SPECTATOR, WORK, Cluster


def test_commit_makes_a_container(cluster: Cluster) -> None:
    """A committed request has a Queued container with its work and its priority."""
    request = cluster.submit(environment={"A": "b"}, mounts={"/data": {"kind": "tmp", "capacity": 1000}})
    container = cluster.active.get("containers", request["container_uuid"])
    assert (request["state"], request["container_count"], container["state"]) == ("Committed", 1, "Queued")
    for name in ("command", "container_image", "cwd", "environment", "mounts", "runtime_constraints", "priority"):
        assert container[name] == request[name], name


def test_commit_in_a_second_step(cluster: Cluster) -> None:
    """A request may be written first, changed, and committed later; incomplete work cannot be committed."""
    request = cluster.active.create("container_requests", {"name": "later"})
    assert (request["state"], request["container_uuid"]) == ("Uncommitted", None)
    with pytest.raises(Unprocessable, match="committed with command and container_image set"):
        cluster.active.update("container_requests", request["uuid"], {"state": "Committed"})
    committed = cluster.active.update("container_requests", request["uuid"], WORK)
    assert committed["state"] == "Committed" and committed["container_uuid"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("command", ["false"]), ("mounts", {"/x": {"kind": "tmp"}}), ("use_existing", True), ("state", "Uncommitted"),
     ("state", "Final"), ("container_uuid", None), ("log_uuid", "x"), ("priority", 1001), ("priority", None)],
)  # fmt: skip
def test_committed_work_is_fixed(cluster: Cluster, name: str, value: Any) -> None:
    """What is committed cannot be changed under the container, nor ended by hand."""
    request = cluster.submit()
    with pytest.raises(Unprocessable, match=name if name != "state" else "cannot be made"):
        cluster.active.update("container_requests", request["uuid"], {name: value})


def test_final_request_keeps_only_its_name_open(cluster: Cluster) -> None:
    """A Final request can be renamed, and not woken."""
    request = cluster.submit()
    cluster.bring(request["container_uuid"], "Complete")
    assert cluster.active.update("container_requests", request["uuid"], {"name": "done"})["name"] == "done"
    with pytest.raises(Unprocessable, match="priority of container request .* while it is Final"):
        cluster.active.update("container_requests", request["uuid"], {"priority": 1})


def test_priority_zero_cancels(cluster: Cluster) -> None:
    """The container has the highest priority of its requests; when all are 0, the dispatcher sees 0."""
    first = cluster.submit(use_existing=True)
    cluster.bring(first["container_uuid"], "Running")
    second = cluster.submit(use_existing=True, priority=900)
    assert second["container_uuid"] == first["container_uuid"]

    def priority() -> Any:
        return cluster.root.get("containers", first["container_uuid"])["priority"]

    assert priority() == 900
    cluster.active.update("container_requests", second["uuid"], {"priority": 0})
    assert priority() == 500
    cluster.active.update("container_requests", first["uuid"], {"priority": 0})
    assert priority() == 0
    cluster.root.update("containers", first["container_uuid"], {"state": "Cancelled"})
    for request in (first, second):
        assert cluster.active.get("container_requests", request["uuid"])["state"] == "Final"


def test_deleted_request_cancels(cluster: Cluster) -> None:
    """Deleting the only request of a container cancels that container; the request is gone."""
    request = cluster.submit()
    cluster.bring(request["container_uuid"], "Running")
    assert cluster.active.delete("container_requests", request["uuid"])["uuid"] == request["uuid"]
    with pytest.raises(NotFound):
        cluster.active.get("container_requests", request["uuid"])
    assert cluster.root.get("containers", request["container_uuid"])["priority"] == 0


def test_retry(cluster: Cluster) -> None:
    """A request that allows a second container gets one when the first is Cancelled, and none when it was unwanted."""
    request = cluster.submit(container_count_max=2)
    cluster.bring(request["container_uuid"], "Cancelled")
    again = cluster.active.get("container_requests", request["uuid"])
    assert (again["state"], again["container_count"]) == ("Committed", 2)
    assert again["container_uuid"] != request["container_uuid"]
    cluster.bring(again["container_uuid"], "Cancelled")
    assert cluster.active.get("container_requests", request["uuid"])["state"] == "Final"

    unwanted = cluster.submit(container_count_max=2)
    cluster.active.update("container_requests", unwanted["uuid"], {"priority": 0})
    cluster.bring(unwanted["container_uuid"], "Queued")
    cluster.root.update("containers", unwanted["container_uuid"], {"state": "Cancelled"})
    assert cluster.active.get("container_requests", unwanted["uuid"])["state"] == "Final"


def test_attribution(cluster: Cluster) -> None:
    """Only the SystemRootToken may say who submitted a request, and only of users that exist."""
    theirs = {"owner_uuid": ACTIVE, "modified_by_user_uuid": ACTIVE}
    request = cluster.submit(cluster.root, **theirs)
    assert (request["owner_uuid"], request["modified_by_user_uuid"]) == (ACTIVE, ACTIVE)
    assert cluster.active.get("containers", request["container_uuid"])["runtime_user_uuid"] == ACTIVE
    with pytest.raises(Forbidden, match="only the SystemRootToken"):
        cluster.submit(cluster.admin, **theirs)
    with pytest.raises(Forbidden, match="only the SystemRootToken"):
        cluster.admin.update("container_requests", request["uuid"], {"modified_by_user_uuid": SPECTATOR})
    with pytest.raises(Unprocessable, match="is not a user of this cluster"):
        cluster.submit(cluster.root, modified_by_user_uuid="zzzzz-tpzed-aaaaaaaaaaaaaaa")
    with pytest.raises(Unprocessable, match="owner_uuid"):
        cluster.submit(cluster.active, owner_uuid=SPECTATOR)


def may_enter(cluster: Cluster, client: ApiClient, container_uuid: str) -> bool:
    """Decide as the controller does, from the records of the API."""
    policy = ShellAccess(mode="default-on", admin=False, user=True)
    requests = cluster.root.list_all(
        "container_requests", filters=[["container_uuid", "=", container_uuid]],
        select=access.request_attributes(embedded=True),
    )  # fmt: skip
    try:
        access.check_allowed(policy, client.current_user(), client.get("containers", container_uuid), requests)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize("change", [{"name": "mine"}, {"priority": 7}, {"properties": {"a": 1}}], ids=str)
def test_who_changes_a_request_has_not_submitted_it(cluster: Cluster, change: dict[str, Any]) -> None:
    """As in Arvados, a later change is attributed to who made it; the submitter stays, and so does who may enter."""
    request = cluster.submit()
    cluster.root.create(
        "links", {"link_class": "permission", "name": "can_write", "tail_uuid": SPECTATOR, "head_uuid": request["uuid"]}
    )
    changed = cluster.spectator.update("container_requests", request["uuid"], change)
    assert (changed["modified_by_user_uuid"], changed["submitted_by_user_uuid"]) == (SPECTATOR, ACTIVE)
    assert not may_enter(cluster, cluster.spectator, request["container_uuid"])
    assert may_enter(cluster, cluster.active, request["container_uuid"])


def test_the_submitter_is_who_commits(cluster: Cluster) -> None:
    """A request has no submitter before it is committed; whoever commits it then is that, a colleague too."""
    request = cluster.active.create("container_requests", {"name": "later"})
    assert request["submitted_by_user_uuid"] is None
    cluster.root.create(
        "links", {"link_class": "permission", "name": "can_write", "tail_uuid": SPECTATOR, "head_uuid": request["uuid"]}
    )
    committed = cluster.spectator.update("container_requests", request["uuid"], WORK)
    assert committed["submitted_by_user_uuid"] == SPECTATOR
    container = cluster.root.get("containers", committed["container_uuid"])
    assert container["runtime_user_uuid"] == SPECTATOR


def test_the_submitter_cannot_be_claimed(cluster: Cluster) -> None:
    """No client sets the submitter; root sets it by saying who submitted the request."""
    request = cluster.submit()
    for client in (cluster.active, cluster.admin, cluster.root):
        with pytest.raises(Unprocessable, match="submitted_by_user_uuid"):
            client.update("container_requests", request["uuid"], {"submitted_by_user_uuid": SPECTATOR})
        with pytest.raises(Unprocessable, match="submitted_by_user_uuid"):
            cluster.submit(client, submitted_by_user_uuid=SPECTATOR)
    given = cluster.root.update("container_requests", request["uuid"], {"modified_by_user_uuid": SPECTATOR})
    assert given["submitted_by_user_uuid"] == SPECTATOR


def test_a_retry_runs_for_the_submitter(cluster: Cluster) -> None:
    """The second container of a request is made for who submitted it, whoever changed it since."""
    request = cluster.submit(container_count_max=2)
    cluster.admin.update("container_requests", request["uuid"], {"name": "an administrator's now"})
    cluster.bring(request["container_uuid"], "Cancelled")
    again = cluster.active.get("container_requests", request["uuid"])["container_uuid"]
    assert again != request["container_uuid"]
    assert cluster.root.get("containers", again)["runtime_user_uuid"] == ACTIVE
