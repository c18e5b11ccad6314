"""What requests get of their containers: log and output collections, as a stock crunch-run's calls bring them about."""

from __future__ import annotations

from typing import Any

import pytest

from arv_ssh.embedded import manifests
from arv_ssh.errors import Unprocessable
from tests.unit.arv_ssh.embedded.cluster import ACTIVE, Cluster

LOG = ". acbd18db4cc2f85cedef654fccc4a4d8+3 0:3:crunch-run.txt\n"
MORE = ". acbd18db4cc2f85cedef654fccc4a4d8+3 37b51d194a7513e45b56f6524f2d51f2+3 0:6:crunch-run.txt\n"
OUTPUT = ". 37b51d194a7513e45b56f6524f2d51f2+3 0:3:result\n"


def save(cluster: Cluster, text: str, **attributes: Any) -> str:
    """Save a collection with the dispatcher's token, as a stock crunch-run saves a log; return its hash."""
    made = cluster.root.create("collections", {"manifest_text": text, "is_trashed": True} | attributes)
    return str(made["portable_data_hash"])


def log_of(cluster: Cluster, request_uuid: str) -> dict[str, Any]:
    return cluster.active.get("collections", cluster.active.get("container_requests", request_uuid)["log_uuid"])


def test_life(cluster: Cluster) -> None:
    """The request's log grows while the container runs; at the end its user has the log, as it is, and the output."""
    request = cluster.submit(output_name="my results", output_ttl=3600, output_properties={"sample": "a"})
    uuid = request["container_uuid"]
    cluster.bring(uuid, "Locked")
    assert cluster.active.get("container_requests", request["uuid"])["log_uuid"] is None
    cluster.root.update("containers", uuid, {"state": "Running", "log": save(cluster, LOG)})
    cluster.root.update("containers", uuid, {"log": save(cluster, MORE)})
    directory = f"log for container {uuid}"
    log = log_of(cluster, request["uuid"])
    assert log["manifest_text"] == manifests.with_copy("", MORE, directory) and log["owner_uuid"] == ACTIVE
    assert log["name"] == f"Container log for request {request['uuid']}" and not log["is_trashed"]
    assert log["properties"] == {"type": "log", "container_request": request["uuid"]}
    output = cluster.container_client(uuid).create("collections", {"manifest_text": OUTPUT, "is_trashed": True})
    end = {"state": "Complete", "exit_code": 0, "output": output["portable_data_hash"], "log": save(cluster, MORE)}
    cluster.root.update("containers", uuid, end)
    final = cluster.active.get("container_requests", request["uuid"])
    assert final["state"] == "Final" and final["log_uuid"] == log["uuid"]
    result = cluster.active.get("collections", final["output_uuid"])
    assert (result["name"], result["manifest_text"], result["owner_uuid"]) == ("my results", OUTPUT, ACTIVE)
    assert result["properties"] == {"type": "output", "container_request": request["uuid"], "sample": "a"}
    assert result["trash_at"] and not result["is_trashed"]
    names = {one["name"] for one in cluster.active.list("collections")["items"]}
    assert names == {log["name"], "my results", f"Container log for container {uuid}"}


def test_attempts(cluster: Cluster) -> None:
    """The log of an attempt that failed stays beside that of the next one."""
    request = cluster.submit(container_count_max=2)
    first = request["container_uuid"]
    cluster.bring(first, "Running")
    cluster.root.update("containers", first, {"state": "Cancelled", "log": save(cluster, LOG)})
    second = cluster.active.get("container_requests", request["uuid"])["container_uuid"]
    assert second != first
    cluster.bring(second, "Running")
    cluster.root.update("containers", second, {"state": "Complete", "exit_code": 0, "log": save(cluster, MORE)})
    text = manifests.with_copy("", LOG, f"log for container {first}")
    assert log_of(cluster, request["uuid"])["manifest_text"] == manifests.with_copy(
        text, MORE, f"log for container {second}"
    )


def test_reuse(cluster: Cluster) -> None:
    """A request that gets a container that is over already gets copies of its own."""
    first = cluster.submit(cluster.active, use_existing=True)
    cluster.bring(first["container_uuid"], "Running")
    output = save(cluster, OUTPUT)
    cluster.root.update("containers", first["container_uuid"], {
        "state": "Complete", "exit_code": 0, "output": output, "log": save(cluster, LOG),
    })  # fmt: skip
    second = cluster.submit(cluster.spectator, use_existing=True)
    assert (second["state"], second["container_uuid"]) == ("Final", first["container_uuid"])
    assert cluster.spectator.get("collections", second["output_uuid"])["manifest_text"] == OUTPUT
    assert second["log_uuid"] and second["log_uuid"] != first["log_uuid"]


def test_own_crunch_run(cluster: Cluster) -> None:
    """A log that is a file of the node is no collection."""
    request = cluster.submit()
    cluster.bring(request["container_uuid"], "Running")
    end = {"state": "Complete", "exit_code": 0, "log": "file:///var/log/x"}
    cluster.root.update("containers", request["container_uuid"], end)
    final = cluster.active.get("container_requests", request["uuid"])
    assert (final["log_uuid"], final["output_uuid"]) == (None, None)


def test_too_long(cluster: Cluster) -> None:
    """A log that cannot be put beside others is the request's log alone."""
    text = ". " + "acbd18db4cc2f85cedef654fccc4a4d8+3 " * 1000
    text += " ".join(f"0:3000:f{number}" for number in range(500)) + "\n"
    request = cluster.submit()
    cluster.bring(request["container_uuid"], "Running")
    cluster.root.update("containers", request["container_uuid"], {"log": save(cluster, text)})
    assert log_of(cluster, request["uuid"])["manifest_text"] == text


def test_what_others_have(cluster: Cluster) -> None:
    """A container cannot get at a collection that its user may not read by naming its hash as its output or log."""
    secret = cluster.root.create("collections", {"manifest_text": OUTPUT})["portable_data_hash"]
    uuid = cluster.container("Running")
    own = cluster.container_client(uuid)
    for end in ({"output": secret}, {"log": secret}, {"output": "0" * 32 + "+1"}, {"output": "x"}):
        with pytest.raises(Unprocessable, match="must be the portable data hash of a collection that user"):
            own.update("containers", uuid, {"state": "Complete", "exit_code": 0} | end)
    own.update("containers", uuid, {"state": "Complete", "exit_code": 0})
