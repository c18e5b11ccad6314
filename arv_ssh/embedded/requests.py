"""Container requests of the embedded API: what a user submits, changes, cancels and deletes.

Owns the way Uncommitted → Committed → Final. :mod:`arv_ssh.embedded.work` rules what a request may ask for, and
:mod:`arv_ssh.embedded.matching` how it gets its container.
"""

from __future__ import annotations

from arv_ssh.embedded import matching, records
from arv_ssh.embedded.call import Attributes, Call
from arv_ssh.embedded.models import COMMITTED, FINAL, UNCOMMITTED, Container, ContainerRequest, User
from arv_ssh.embedded.permissions import MANAGE, check_owner, level
from arv_ssh.embedded.work import check_mount_rights, check_work
from arv_ssh.errors import Forbidden, Unprocessable

ALWAYS = frozenset({"owner_uuid", "state", "name", "description", "properties"})
UNTIL_FINAL = ALWAYS | {"priority", "container_count_max"}
UNTIL_COMMITTED = UNTIL_FINAL.union(
    matching.WORK, {"expires_at", "filters", "output_name", "output_ttl", "use_existing"}
)  # fmt: skip
PERMITTED = {UNCOMMITTED: UNTIL_COMMITTED, COMMITTED: UNTIL_FINAL, FINAL: ALWAYS}
"""The attributes that a client may change, by the state of the request."""


def create(call: Call, attributes: Attributes) -> ContainerRequest:
    """Make a request, and its container when it is committed at once."""
    _check_attribution(call, attributes.get("modified_by_user_uuid"), call.user_uuid)
    request = records.new(call, ContainerRequest, attributes, UNTIL_COMMITTED | {"modified_by_user_uuid"})
    _check_people(call, request)
    _check_and_commit(call, request, UNCOMMITTED)
    call.session.add(request)
    matching.follow(call, request)
    return request


def update(call: Call, request: ContainerRequest, attributes: Attributes) -> None:
    """Change a request: before it is committed all of it, then its priority (0 cancels), finally only its name."""
    changed = records.changes(request, attributes)
    _check_attribution(call, changed.get("modified_by_user_uuid"), request.modified_by_user_uuid)
    old = request.state
    records.refuse(request, changed, PERMITTED[old] | {"modified_by_user_uuid"}, f"while it is {old}")
    if "owner_uuid" in changed and level(call, request) < MANAGE:
        # Its new owner could delete it, or share it with anyone.
        raise Forbidden(
            f"user {call.user_uuid} may change {records.label(request)} but not give it to another owner; "
            "ask its owner to do so"
        )
    records.apply(call, request, changed)
    if changed.keys() & {"owner_uuid", "modified_by_user_uuid"}:
        _check_people(call, request)
    if "modified_by_user_uuid" in changed and old != UNCOMMITTED:
        request.submitted_by_user_uuid = request.modified_by_user_uuid  # set by root; an ordinary change leaves it
    _check_and_commit(call, request, old)
    matching.follow(call, request)


def delete(call: Call, request: ContainerRequest) -> None:
    """Delete a request; a container that no other request waits for then gets priority 0, which cancels it."""
    container_uuid = request.container_uuid
    call.session.delete(request)
    call.session.flush()
    if container_uuid is not None:
        matching.update_priority(call, call.session.get_one(Container, container_uuid))


def _check_attribution(call: Call, submitter: str | None, truth: str | None) -> None:
    if submitter not in (None, truth) and not call.caller.is_root:
        raise Forbidden("modified_by_user_uuid says who submitted a request; only the SystemRootToken may set it")


def _check_people(call: Call, request: ContainerRequest) -> None:
    check_owner(call, request.owner_uuid)
    submitter = request.modified_by_user_uuid
    if submitter is None or call.session.get(User, submitter) is None:
        raise Unprocessable(f"modified_by_user_uuid {submitter!r} is not a user of this cluster")


def _check_and_commit(call: Call, request: ContainerRequest, old: str) -> None:
    committing = (old, request.state) == (UNCOMMITTED, COMMITTED)
    if request.state != old and not committing:
        raise Unprocessable(
            f"{records.label(request)} is {old} and cannot be made {request.state!r}: a client commits a request "
            "(Committed), the end of its container makes it Final"
        )
    check_work(request, committed=request.state != UNCOMMITTED)
    if old == UNCOMMITTED:
        check_mount_rights(call, request)
    if committing:
        request.submitted_by_user_uuid = request.modified_by_user_uuid
        matching.commit(call, request)
