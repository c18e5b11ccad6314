"""Reuse of containers by the embedded API."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.arv_ssh.embedded.cluster import Cluster


def first_container(cluster: Cluster, state: str, exit_code: int = 0) -> str:
    """Return a container in ``state`` that others may share."""
    uuid = str(cluster.submit(use_existing=True)["container_uuid"])
    cluster.bring(uuid, state if state != "Complete" else "Running")
    if state == "Complete":
        cluster.root.update("containers", uuid, {"state": "Complete", "exit_code": exit_code})
    return uuid


@pytest.mark.parametrize(
    ("state", "shared"),
    [("Queued", False), ("Locked", False), ("Running", True), ("Complete", True), ("Cancelled", False)],
)
def test_states(cluster: Cluster, state: str, shared: bool) -> None:
    """A running or a complete container of the same work is shared; of a complete one the request is Final at once."""
    uuid = first_container(cluster, state)
    request = cluster.submit(use_existing=True)
    assert (request["container_uuid"] == uuid) is shared
    assert request["state"] == ("Final" if state == "Complete" else "Committed")


@pytest.mark.parametrize("state", ["Running", "Complete"])
def test_container_with_a_session_is_not_shared(cluster: Cluster, state: str) -> None:
    """A container that somebody has entered is never handed to another request."""
    uuid = first_container(cluster, "Running")
    cluster.root.update("containers", uuid, {"interactive_session_started": True})
    if state == "Complete":
        cluster.root.update("containers", uuid, {"state": "Complete", "exit_code": 0})
    assert cluster.submit(use_existing=True)["container_uuid"] != uuid


@pytest.mark.parametrize(
    "different",
    [
        {"command": ["sleep", "601"]}, {"container_image": "other"}, {"environment": {"A": "1"}}, {"cwd": "/tmp"},
        {"mounts": {"/data": {"kind": "tmp"}}}, {"output_path": "/out"},
        {"runtime_constraints": {"vcpus": 1, "ram": 100_000_000, "shell_access": False}},
        {"runtime_constraints": {"vcpus": 1, "ram": 100_000_001}}, {"use_existing": False},
    ],
)  # fmt: skip
def test_other_work_is_not_shared(cluster: Cluster, different: dict[str, Any]) -> None:
    """Any difference in the work, or the wish for a container of one's own, makes a new container."""
    uuid = first_container(cluster, "Running")
    assert cluster.submit(**{"use_existing": True, **different})["container_uuid"] != uuid


def test_what_is_no_difference(cluster: Cluster) -> None:
    """The order of keys, the name and the priority are not part of the work; nor is who submits."""
    uuid = first_container(cluster, "Running")
    constraints = {"ram": 100_000_000, "vcpus": 1}
    request = cluster.submit(
        cluster.spectator, use_existing=True, name="x", priority=1, runtime_constraints=constraints
    )
    assert request["container_uuid"] == uuid
    assert cluster.spectator.get("containers", uuid)["uuid"] == uuid


def test_failed_and_failing_containers_are_not_shared(cluster: Cluster) -> None:
    """A container that failed, reports an error or is being cancelled is no help to another request."""
    failed = first_container(cluster, "Complete", exit_code=1)
    failing = cluster.submit(use_existing=True)
    assert failing["container_uuid"] != failed
    cluster.bring(failing["container_uuid"], "Running")
    cluster.root.update("containers", failing["container_uuid"], {"runtime_status": {"error": "disk full"}})
    cancelled = cluster.submit(use_existing=True)
    assert cancelled["container_uuid"] != failing["container_uuid"]
    cluster.bring(cancelled["container_uuid"], "Running")
    cluster.active.update("container_requests", cancelled["uuid"], {"priority": 0})
    known = {failed, failing["container_uuid"], cancelled["container_uuid"]}
    assert cluster.submit(use_existing=True)["container_uuid"] not in known


def test_complete_comes_before_running(cluster: Cluster) -> None:
    """What is done already is preferred to what still runs."""
    running = first_container(cluster, "Running")
    complete = cluster.submit(use_existing=False)["container_uuid"]
    cluster.bring(complete, "Complete")
    assert cluster.submit(use_existing=True)["container_uuid"] == complete != running
