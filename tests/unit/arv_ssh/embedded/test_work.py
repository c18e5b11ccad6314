"""What a container request may ask for."""

from __future__ import annotations

from typing import Any

import pytest

from arv_ssh.errors import Forbidden, Unprocessable
from tests.unit.arv_ssh.embedded.cluster import ACTIVE, WORK, Cluster

BIND = {"/data": {"kind": "bind", "path": "/srv/data", "writable": True}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("command", []), ("command", ["sleep", 600]), ("container_image", ""), ("cwd", ""),
        ("environment", {"A": 1}), ("environment", {"A=B": "c"}), ("environment", {"": "c"}),
        ("priority", -1), ("priority", 1001), ("container_count_max", 0), ("output_ttl", -1),
        ("mounts", {"data": {"kind": "tmp"}}), ("mounts", {"/": {"kind": "tmp"}}),
        ("mounts", {"/a/../b": {"kind": "tmp"}}),
        ("mounts", {"/data": "tmp"}), ("mounts", {"/data": {}}), ("mounts", {"/data": {"kind": "collection"}}),
        ("mounts", {"/data": {"kind": ["tmp"]}}),
        ("mounts", {"/data": {"kind": "bind"}}), ("mounts", {"/data": {"kind": "bind", "path": "srv"}}),
        ("mounts", {"/data": {"kind": "bind", "path": "/srv/../etc"}}),
        ("mounts", {"/data": {"kind": "bind", "path": "/srv", "writable": "no"}}),
        ("runtime_constraints", {"vcpus": 0}), ("runtime_constraints", {"ram": "1G"}),
        ("runtime_constraints", {"ram": None}), ("runtime_constraints", {"vcpus": True}),
        ("runtime_constraints", {"hold_on_failure": -1}), ("runtime_constraints", {"hold_on_failure": "1h"}),
        ("runtime_constraints", {"hold_on_failure": True}),
        ("runtime_constraints", {"shell_access": "no"}), ("runtime_constraints", {"shell_access": None}),
        ("runtime_constraints", {"user": ""}), ("runtime_constraints", {"user": 1000}),
    ],
)  # fmt: skip
def test_work_that_cannot_be(cluster: Cluster, name: str, value: Any) -> None:
    """Work that no crunch-run could start is refused when it is submitted, by naming what is wrong."""
    with pytest.raises(Unprocessable) as caught:
        cluster.root.create("container_requests", {**WORK, name: value})
    words = {"mounts": "mount", "runtime_constraints": "runtime_constraints"}
    assert words.get(name, name) in str(caught.value)
    assert cluster.root.list("containers")["items_available"] == 0


def test_what_is_optional(cluster: Cluster) -> None:
    """A command and an image are enough."""
    request = cluster.active.create(
        "container_requests", {"state": "Committed", "command": ["true"], "container_image": "x"}
    )
    assert (request["cwd"], request["priority"], request["mounts"]) == (".", 0, {})


def test_bind_mounts_are_for_administrators(cluster: Cluster) -> None:
    """A directory of the host is mounted for an administrator and for root, also in another's name; for nobody else."""
    with pytest.raises(Forbidden, match="^the mount /data is of kind bind; only an administrator may mount host"):
        cluster.submit(mounts=BIND)
    assert cluster.submit(cluster.admin, mounts=BIND)["mounts"] == BIND
    theirs = {"owner_uuid": ACTIVE, "modified_by_user_uuid": ACTIVE}
    assert cluster.submit(cluster.root, mounts=BIND, **theirs)["mounts"] == BIND


def test_bind_mounts_stay_the_administrators(cluster: Cluster) -> None:
    """A user cannot put a command of their own into a request that an administrator gave a bind mount."""
    draft = {**WORK, "state": "Uncommitted", "mounts": BIND}
    request = cluster.root.create("container_requests", draft | {"owner_uuid": ACTIVE})
    for change in ({"state": "Committed"}, {"command": ["rm", "-r", "/data"]}, {"name": "x"}):
        with pytest.raises(Forbidden, match="only an administrator"):
            cluster.active.update("container_requests", request["uuid"], change)
    cluster.root.update("container_requests", request["uuid"], {"state": "Committed"})
    assert cluster.active.update("container_requests", request["uuid"], {"priority": 0})["priority"] == 0
