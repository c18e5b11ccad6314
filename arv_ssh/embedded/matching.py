"""The tie between container requests and containers of the embedded API.

Owns which container a committed request gets (a fitting one, or a new one), the priority that a container gets from its
requests, and what becomes of them when it ends. Who may change either side is up to their own modules.
"""

from __future__ import annotations

import hashlib
import json

from sqlalchemy import and_, func, or_, select

from arv_ssh import uuids
from arv_ssh.embedded import results
from arv_ssh.embedded.call import Call, root_user_uuid
from arv_ssh.embedded.models import (
    CANCELLED,
    COMMITTED,
    COMPLETE,
    ENDED,
    FINAL,
    RUNNING,
    Container,
    ContainerRequest,
)

WORK = (
    "command", "container_image", "cwd", "environment", "mounts", "output_path", "output_properties",
    "output_storage_classes", "published_ports", "runtime_constraints", "scheduling_parameters",
)  # fmt: skip
"""The attributes that a container takes over from its request."""
REUSE_KEY = ("command", "container_image", "cwd", "environment", "mounts", "output_path", "runtime_constraints")
"""The attributes that must be equal for two requests to share a container."""


def commit(call: Call, request: ContainerRequest) -> None:
    """Give a request its container."""
    container = (_reusable(call, request) if request.use_existing else None) or _new_container(call, request)
    _assign(request, container)


def _assign(request: ContainerRequest, container: Container) -> None:
    request.container_uuid = container.uuid
    request.container_count += 1


def reuse_key(request: ContainerRequest) -> str:
    """Return a text that is equal for requests for the same work."""
    work = {name: getattr(request, name) for name in REUSE_KEY}
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()


def _reusable(call: Call, request: ContainerRequest) -> Container | None:
    """Return a container that has done, or is doing, the same work without error, and was never entered."""
    same = select(Container).where(
        Container.reuse_key == reuse_key(request), Container.interactive_session_started.is_(False)
    )
    good = same.where(
        or_(
            and_(Container.state == COMPLETE, Container.exit_code == 0),
            and_(Container.state == RUNNING, Container.priority > 0),
        )
    )
    # "Complete" sorts before "Running": finished work comes first, then the work that started first.
    for container in call.session.scalars(good.order_by(Container.state, Container.started_at, Container.uuid)):
        if container.state == COMPLETE or "error" not in container.runtime_status:
            return container
    return None


def _new_container(call: Call, request: ContainerRequest) -> Container:
    root = root_user_uuid(call.config.cluster_id)
    container = Container(
        uuid=uuids.new(call.config.cluster_id, uuids.CONTAINER), owner_uuid=root, created_at=call.now,
        modified_at=call.now, modified_by_user_uuid=root, reuse_key=reuse_key(request), priority=request.priority,
        runtime_user_uuid=request.submitted_by_user_uuid, **{name: getattr(request, name) for name in WORK},
    )  # fmt: skip
    call.session.add(container)
    call.session.flush()
    return container


def follow(call: Call, request: ContainerRequest) -> None:
    """Bring the container's priority, or the request's end, up to date after the request was changed."""
    call.session.flush()
    if request.state == COMMITTED and request.container_uuid is not None:
        container = call.session.get_one(Container, request.container_uuid)
        if container.state in ENDED:
            request.state = FINAL
            results.keep(call, request, container)
        update_priority(call, container)


def update_priority(call: Call, container: Container) -> None:
    """Give a container the highest priority of the requests that wait for it; 0 without any, or with all cancelled."""
    if container.state in ENDED:
        return
    call.session.flush()
    highest = call.session.scalar(
        select(func.max(ContainerRequest.priority)).where(
            ContainerRequest.container_uuid == container.uuid, ContainerRequest.state == COMMITTED
        )
    )
    if container.priority != (highest or 0):
        container.priority = highest or 0
        container.modified_at = call.now


def container_ended(call: Call, container: Container) -> None:
    """Make the requests of an ended container Final; those that may try again get one new container together.

    A request keeps its submitter: this change is the cluster's own.
    """
    call.session.flush()
    waiting = call.session.scalars(
        select(ContainerRequest)
        .where(ContainerRequest.container_uuid == container.uuid, ContainerRequest.state == COMMITTED)
        .order_by(ContainerRequest.priority.desc(), ContainerRequest.uuid)
    ).all()
    retry: Container | None = None
    for request in waiting:
        request.cumulative_cost += container.cost
        request.modified_at = call.now
        again = request.priority > 0 and request.container_count < request.container_count_max
        if container.state == CANCELLED and again:
            retry = retry or _new_container(call, request)
            results.keep_log_of(call, request, container)
            _assign(request, retry)
        else:
            request.state = FINAL
            results.keep(call, request, container)
    if retry is not None:
        update_priority(call, retry)
