"""What container requests get of their containers' logs and outputs: collections of their own.

Owns when such a collection is made and what is in it. A container's ``log`` and ``output`` are portable data hashes of
collections that its crunch-run has saved; what is none, such as the ``file:`` URI that this package's own crunch-run
records, is left to whoever reads it.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select

from arv_ssh.embedded import collections, manifests
from arv_ssh.embedded.call import Attributes, Call
from arv_ssh.embedded.models import COMMITTED, COMPLETE, Collection, Container, ContainerRequest
from arv_ssh.errors import Unprocessable


def keep_log(call: Call, container: Container) -> None:
    """Bring the requests' log collections up to date while the container runs."""
    waiting = select(ContainerRequest).where(
        ContainerRequest.container_uuid == container.uuid, ContainerRequest.state == COMMITTED
    )
    for request in call.session.scalars(waiting).all():
        keep_log_of(call, request, container)


def keep(call: Call, request: ContainerRequest, container: Container) -> None:
    """Give a request that becomes Final its log and output; of a Complete container also its log as it is.

    The latter is what the hash in the container's ``log`` leads to.
    """
    log = keep_log_of(call, request, container)
    if log is not None and container.state == COMPLETE:
        name = f"Container log for container {container.uuid}"
        properties = {"type": "log", "container_request": request.uuid, "container_uuid": container.uuid}
        collections.keep(call, None, _attributes(request, name, log.manifest_text, properties))
    _keep_output(call, request, container)


def keep_log_of(call: Call, request: ContainerRequest, container: Container) -> Collection | None:
    """Put the container's log into the request's, where those of earlier attempts are too; return the former."""
    log = collections.content(call, container.log) if container.log else None
    if log is None:
        return None
    before = call.session.get(Collection, request.log_uuid) if request.log_uuid else None
    text = _merged(before.manifest_text if before else "", log.manifest_text, f"log for container {container.uuid}")
    properties = {"type": "log", "container_request": request.uuid}
    attributes = _attributes(request, f"Container log for request {request.uuid}", text, properties)
    request.log_uuid = collections.keep(call, request.log_uuid, attributes).uuid
    return log


def _merged(text: str, log: str, directory: str) -> str:
    try:
        return manifests.with_copy(text, log, directory)
    except Unprocessable:  # too long with the earlier attempts' logs
        return log


def _keep_output(call: Call, request: ContainerRequest, container: Container) -> None:
    output = collections.content(call, container.output) if container.output else None
    if output is None:
        return
    properties = {"type": "output", "container_request": request.uuid}
    properties |= {**container.output_properties, **request.output_properties}
    name = request.output_name or f"Container output for request {request.uuid}"
    attributes = _attributes(request, name, output.manifest_text, properties)
    if request.output_ttl:
        attributes["trash_at"] = call.now + timedelta(seconds=request.output_ttl)
    request.output_uuid = collections.keep(call, request.output_uuid, attributes).uuid


def _attributes(request: ContainerRequest, name: str, text: str, properties: Attributes) -> Attributes:
    return {
        "owner_uuid": request.owner_uuid, "name": name, "manifest_text": text, "properties": properties,
        "storage_classes_desired": request.output_storage_classes,
    }  # fmt: skip
