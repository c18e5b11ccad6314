"""Containers of the embedded API: every step of the state machine, the lock, and the container's own token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from arv_ssh.embedded.containers import TRANSITIONS
from arv_ssh.errors import Forbidden, NotFound, Unauthorized, Unprocessable
from arv_ssh.trust.access import FIRST_SESSION
from tests.unit.arv_ssh.embedded.cluster import ACTIVE, ROOT_TOKEN, SPECTATOR, Cluster

ROOT_AUTH = "zzzzz-gj3su-000000000000000"
STATES = list(TRANSITIONS)


@pytest.mark.parametrize("new", STATES)
@pytest.mark.parametrize("old", STATES)
def test_steps(cluster: Cluster, old: str, new: str) -> None:
    """Queued → Locked → Running → Complete or Cancelled, back to Queued from Locked; every other step is a 422."""
    uuid = cluster.container(old)
    if new == old or new in TRANSITIONS[old]:
        assert cluster.root.update("containers", uuid, {"state": new})["state"] == new
    else:
        with pytest.raises(Unprocessable, match=f"container {uuid} is {old} and cannot become '{new}'"):
            cluster.root.update("containers", uuid, {"state": new})
        assert cluster.root.get("containers", uuid)["state"] == old


def test_unknown_state(cluster: Cluster) -> None:
    """A state that does not exist is no step."""
    with pytest.raises(Unprocessable, match="cannot become 'Napping', only Locked or Cancelled"):
        cluster.root.update("containers", cluster.container("Queued"), {"state": "Napping"})


def test_life(cluster: Cluster) -> None:
    """A container gets its lock, token, times and result on the way, and its request is Final at the end."""
    request = cluster.submit()
    uuid = request["container_uuid"]
    locked = cluster.root.lock(uuid)
    assert (locked["state"], locked["locked_by_uuid"], locked["lock_count"]) == ("Locked", ROOT_AUTH, 1)
    assert locked["auth_uuid"] and locked["runtime_user_uuid"] == ACTIVE
    running = cluster.root.update("containers", uuid, {"state": "Running", "gateway_address": "10.0.0.7:1"})
    assert running["started_at"] and running["gateway_address"] == "10.0.0.7:1"
    end = {"state": "Complete", "exit_code": 44, "log": "log.txt"}
    complete = cluster.root.update("containers", uuid, end)
    assert complete["finished_at"] >= running["started_at"]
    assert (complete["exit_code"], complete["log"], complete["locked_by_uuid"], complete["auth_uuid"]) == (
        44, "log.txt", None, None,
    )  # fmt: skip
    final = cluster.active.get("container_requests", request["uuid"])
    assert (final["state"], final["modified_by_user_uuid"]) == ("Final", ACTIVE)


@pytest.mark.parametrize("state", STATES)
def test_lock_and_unlock(cluster: Cluster, state: str) -> None:
    """Only a Queued container can be locked, only a Locked one unlocked."""
    uuid = cluster.container(state)
    if state != "Locked":
        with pytest.raises(Unprocessable, match=f"{uuid} is {state}"):
            cluster.root.unlock(uuid)
    if state == "Queued":
        cluster.root.lock(uuid)
    else:
        with pytest.raises(Unprocessable, match=f"{uuid} is {state}"):
            cluster.root.lock(uuid)
    if state in ("Queued", "Locked"):
        queued = cluster.root.unlock(uuid)
        assert (queued["state"], queued["locked_by_uuid"], queued["auth_uuid"]) == ("Queued", None, None)


def test_unlock_with_another_token(cluster: Cluster) -> None:
    """A dispatcher cannot take off another's lock."""
    uuid = cluster.container("Locked")
    with pytest.raises(Unprocessable, match="locked with another token"):
        cluster.admin.unlock(uuid)
    with pytest.raises(Forbidden, match="not locked with this token"):
        cluster.admin.container_auth(uuid)


def test_users_do_not_lock(cluster: Cluster) -> None:
    """Whoever submitted a container reads it and does not run it."""
    uuid = cluster.container("Queued")
    with pytest.raises(Forbidden, match="only a dispatcher"):
        cluster.active.lock(uuid)
    with pytest.raises(Forbidden, match="change the priority of its container request"):
        cluster.active.update("containers", uuid, {"state": "Cancelled"})
    with pytest.raises(NotFound):
        cluster.spectator.lock(uuid)


def test_cancelled_container_is_not_locked(cluster: Cluster) -> None:
    """A container whose requests are all cancelled never starts."""
    request = cluster.submit(priority=0)
    with pytest.raises(Unprocessable, match="its priority is 0"):
        cluster.root.lock(request["container_uuid"])


def test_too_many_attempts(cluster: Cluster) -> None:
    """A container that goes back to the queue too often is Cancelled with the reason."""
    uuid = cluster.container("Queued")
    api = cluster.api
    api._config = replace(api._config, max_dispatch_attempts=2)
    for _ in range(2):
        cluster.root.lock(uuid)
        cluster.root.unlock(uuid)
    container = cluster.root.get("containers", uuid)
    assert container["state"] == "Cancelled"
    assert "after 2 attempts to start it" in container["runtime_status"]["error"]


VALUES: dict[str, Any] = {
    "cost": 1.5, "exit_code": 3, "finished_at": "2030-01-01T00:00:00Z", "gateway_address": "10.0.0.7:9",
    "interactive_session_started": True, "log": "file:///log", "output_properties": {"a": "b"}, "priority": 7,
    "progress": 0.5, "properties": {"a": "b"}, "runtime_status": {"activity": "x"},
    "started_at": "2030-01-01T00:00:00Z", "subrequests_cost": 2.5,
}  # fmt: skip
"""A value of each attribute that can ever be recorded; ``output`` needs a collection."""
WHILE: dict[str, set[str]] = {
    "Queued": {"priority"},
    "Locked": {"priority", "runtime_status", "log"},
    "Running": VALUES.keys() - {"finished_at", "started_at"},
    "Complete": set(),
    "Cancelled": set(),
}
"""What a real Arvados takes in each state, and ``properties``, which it does not have."""
PROGRESS = {"cost", "exit_code", "log", "output_properties", "progress", "runtime_status", "subrequests_cost"}
WITH_A_STEP: dict[tuple[str, str], set[str]] = {
    ("Queued", "Cancelled"): {"cost", "finished_at", "log", "runtime_status"},
    ("Locked", "Cancelled"): {"cost", "finished_at", "log", "runtime_status"},
    ("Locked", "Running"): WHILE["Running"] | {"started_at"},
    ("Running", "Complete"): PROGRESS | {"finished_at"},
    ("Running", "Cancelled"): PROGRESS | {"finished_at"},
    ("Complete", "Cancelled"): set(),
}


@pytest.mark.parametrize("state", STATES)
def test_attributes_have_their_time(cluster: Cluster, state: str) -> None:
    """What cannot be true in a state cannot be recorded in it; what a container is made of never changes."""
    uuid = cluster.container(state)
    fixed = {"command": ["false"], "auth_uuid": "x", "uuid": "zzzzz-dz642-aaaaaaaaaaaaaaa", "lock_count": 77}
    for name, value in (VALUES | fixed).items():
        if name in WHILE[state]:
            assert cluster.root.update("containers", uuid, {name: value})[name] == value
            continue
        with pytest.raises(Unprocessable, match=f"^{name} of container {uuid} cannot be changed while it is {state}$"):
            cluster.root.update("containers", uuid, {name: value})


@pytest.mark.parametrize(("old", "new"), WITH_A_STEP, ids=str)
def test_attributes_with_a_step(cluster: Cluster, old: str, new: str) -> None:
    """What belongs to a step is recorded with it, all at once, and nothing else is."""
    uuid = cluster.container(old)
    permitted = WITH_A_STEP[old, new]
    for name in VALUES.keys() - permitted:
        with pytest.raises(Unprocessable, match=f"^{name} of container {uuid} cannot be changed on the way to {new}$"):
            cluster.root.update("containers", uuid, {"state": new, name: VALUES[name]})
    after = cluster.root.update("containers", uuid, {"state": new} | {name: VALUES[name] for name in permitted})
    assert after["state"] == new
    times = {"started_at", "finished_at"}
    assert {name: after[name] for name in permitted - times} == {name: VALUES[name] for name in permitted - times}


def test_another_dispatcher(cluster: Cluster) -> None:
    """A token that did not lock a container cancels it, and records nothing of its progress."""
    uuid = cluster.container("Running")
    for name in PROGRESS:
        with pytest.raises(Unprocessable, match=f"^{name} of .* it was locked with another one$"):
            cluster.admin.update("containers", uuid, {name: VALUES[name]})
    assert cluster.admin.update("containers", uuid, {"gateway_address": "x:1"})["gateway_address"] == "x:1"
    assert cluster.admin.update("containers", uuid, {"state": "Cancelled"})["state"] == "Cancelled"


def test_runtime_status(cluster: Cluster) -> None:
    """What clients show as text is text; other keys are free; an attempt's status ends with it."""
    uuid = cluster.container("Locked")
    for key in ("error", "errorDetail", "warning", "warningDetail", "activity", "preemptionNotice"):
        with pytest.raises(Unprocessable, match=f"^{key} in runtime_status of container {uuid} must be a string$"):
            cluster.root.update("containers", uuid, {"runtime_status": {key: 1}})
    cluster.root.update("containers", uuid, {"runtime_status": {"warning": "w", "keepCacheMisses": 3}})
    assert cluster.root.unlock(uuid)["runtime_status"] == {}


def test_secret_mounts(cluster: Cluster) -> None:
    """A container's own token reads its secret mounts, of which no request can have any; nobody else does."""
    uuid = cluster.container("Running")
    auth = cluster.root.container_auth(uuid)
    path = f"/arvados/v1/containers/{uuid}/secret_mounts"
    for token in (f"v2/{auth['uuid']}/{auth['api_token']}/{uuid}", f"v2/{auth['uuid']}/{auth['api_token']}"):
        assert cluster.call("GET", path, token=token) == (200, {"secret_mounts": {}})
    for token in (ROOT_TOKEN, cluster.token(ACTIVE)):
        assert cluster.call("GET", path, token=token)[0] == 403
    with pytest.raises(Unprocessable, match="has no attribute 'secret_mounts'"):
        cluster.submit(secret_mounts={"/secret": {"kind": "text", "content": "s"}})


def test_interactive_session_started(cluster: Cluster) -> None:
    """The mark of a session is set once, may be set again, and is never taken back."""
    uuid = cluster.container("Running")
    for _ in range(2):
        marked = cluster.root.update("containers", uuid, {"interactive_session_started": True})
        assert marked["interactive_session_started"] is True
    with pytest.raises(Unprocessable, match="cannot be taken back"):
        cluster.root.update("containers", uuid, {"interactive_session_started": False})


def test_own_token_keeps_the_record(cluster: Cluster) -> None:
    """A crunch-run's token reads and writes its own container, from Locked to the end, and then no more."""
    uuid = cluster.container("Locked")
    own = cluster.container_client(uuid)
    assert own.get("containers", uuid)["uuid"] == uuid
    assert own.current_user()["uuid"] == ACTIVE
    own.update("containers", uuid, {"state": "Running", "gateway_address": "127.0.0.1:9"})
    own.update("containers", uuid, {"runtime_status": {"activity": "x"}, "progress": 0.5, "exit_code": 0})
    own.update("containers", uuid, {"gateway_address": "127.0.0.1:10"})
    with pytest.raises(Forbidden, match="may not change its log while it is Running"):
        own.update("containers", uuid, {"log": "x"})
    own.update("containers", uuid, {"state": "Complete", "exit_code": 0, "log": "x", "output": None})
    with pytest.raises(Unauthorized):
        own.get("containers", uuid)


def test_own_token_does_nothing_else(cluster: Cluster) -> None:
    """A crunch-run's token is of no use for anything but its own container's record."""
    request = cluster.submit()
    uuid, other = request["container_uuid"], cluster.container("Locked")
    cluster.root.lock(uuid)
    own = cluster.container_client(uuid)
    calls: list[Any] = [
        lambda: own.get("containers", other),
        lambda: own.update("containers", other, {"state": "Running"}),
        lambda: own.list("containers"),
        lambda: own.get("container_requests", request["uuid"]),
        lambda: own.update("container_requests", request["uuid"], {"priority": 0}),
        lambda: own.create("container_requests", {}),
        lambda: own.create("api_client_authorizations", {}),
        lambda: own.lock(uuid),
        lambda: own.unlock(uuid),
        lambda: own.container_auth(uuid),
        lambda: own.update("containers", uuid, {"interactive_session_started": True}),
        lambda: own.update("containers", uuid, {"priority": 1000}),
        lambda: own.update("containers", uuid, {"state": "Queued"}),
    ]
    for call in calls:
        with pytest.raises(Forbidden):
            call()
    assert cluster.root.get("containers", uuid)["state"] == "Locked"


@pytest.mark.parametrize("admin_submits", [True, False])
def test_own_token_is_no_admin(cluster: Cluster, admin_submits: bool) -> None:
    """The token of a container that an administrator submitted has no more rights than any other."""
    uuid = cluster.container("Running", cluster.admin if admin_submits else None)
    own = cluster.container_client(uuid)
    with pytest.raises(Forbidden, match="may not change its interactive_session_started"):
        own.update("containers", uuid, {"interactive_session_started": True})
    with pytest.raises(Forbidden, match="not in its scopes"):
        own.get("users", SPECTATOR)


def test_unlock_revokes_the_token(cluster: Cluster) -> None:
    """The token of an earlier attempt is dead; the next attempt gets another."""
    uuid = cluster.container("Locked")
    first = cluster.container_client(uuid)
    cluster.root.unlock(uuid)
    cluster.root.lock(uuid)
    with pytest.raises(Unauthorized):
        first.get("containers", uuid)
    assert cluster.container_client(uuid).get("containers", uuid)["lock_count"] == 2


def test_containers_current(cluster: Cluster) -> None:
    """containers/current is the container whose token asks."""
    uuid = cluster.container("Locked")
    auth = cluster.root.container_auth(uuid)
    assert auth["kind"] == "arvados#apiClientAuthorization"
    token = f"v2/{auth['uuid']}/{auth['api_token']}"
    status, container = cluster.call("GET", "/arvados/v1/containers/current", token=token)
    assert (status, container["uuid"]) == (200, uuid)
    assert cluster.call("GET", "/arvados/v1/containers/current", token=ROOT_TOKEN)[0] == 404


def test_deactivated_users_container_goes_on(cluster: Cluster) -> None:
    """A user who is shut out does not take the record away from a crunch-run."""
    uuid = cluster.container("Locked")
    own = cluster.container_client(uuid)
    cluster.root.update("users", ACTIVE, {"is_active": False})
    assert own.update("containers", uuid, {"state": "Running"})["state"] == "Running"


def test_containers_are_not_deleted(cluster: Cluster) -> None:
    """A container stays as history; the refusal says how to cancel."""
    with pytest.raises(Forbidden, match="set the priority of its requests to 0"):
        cluster.root.delete("containers", cluster.container("Queued"))


def test_first_session_stays_noted(cluster: Cluster) -> None:
    """Of two sessions that mark a container at once, the first one's note stays, and other properties change freely."""
    uuid = cluster.container("Running")
    started = {"interactive_session_started": True}
    for user in ("first", "second"):
        note = {FIRST_SESSION: {"user_uuid": user}, "last": user}
        marked = cluster.root.update("containers", uuid, started | {"properties": note})
    assert marked["properties"] == {FIRST_SESSION: {"user_uuid": "first"}, "last": "second"}
    assert cluster.root.update("containers", uuid, {"properties": {}})["properties"].keys() == {FIRST_SESSION}


def test_a_containers_own_token_does_not_write_its_properties(cluster: Cluster) -> None:
    """What noted who entered cannot be forged from inside the container's own crunch-run."""
    uuid = cluster.container("Running")
    with pytest.raises(Forbidden, match="may not change its properties"):
        cluster.container_client(uuid).update("containers", uuid, {"properties": {FIRST_SESSION: {}}})
