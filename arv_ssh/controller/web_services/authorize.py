"""Who may use which port of a container: the decision, from the API's records.

Owns its order: is the port public, else who is the user, may they read the container, is the port published, did they
submit all its requests; then whether it runs. Blocking, for threads. Knows nothing of HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from arv_ssh.controller.api_calls import ApiCalls, as_roots
from arv_ssh.controller.web_services import ports
from arv_ssh.controller.web_services.names import Target, is_request
from arv_ssh.controller.web_services.ports import Ports
from arv_ssh.errors import ContainerEnded, Forbidden, HttpError, NotFound, Unauthorized, Unavailable
from arv_ssh.trust import access

PUBLIC = "public"
_ATTRIBUTES = ["uuid", "state", "gateway_address", "published_ports", "runtime_user_uuid", "runtime_status",
               "exit_code", "finished_at", "log", "output"]  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What is asked for: a name and who asks; ``token`` is "" for nobody in particular."""

    target: Target
    token: str = field(repr=False)
    request_id: str


@dataclass(frozen=True)
class Grant:
    """A right to use ``port`` of a running ``container``; ``user_uuid`` is "" where the port is public."""

    container: dict[str, Any]
    port: int
    user_uuid: str = ""

    @property
    def uuid(self) -> str:
        """The container's UUID."""
        return str(self.container["uuid"])


def authorize(calls: ApiCalls, found: Ports, asked: Asked) -> Grant:
    """Return the right to use what ``asked`` names, or raise the refusal."""
    uuid, port, container = _found(calls, found, asked)
    published = ports.entry(container, port) if container is not None else None
    user_uuid = ""
    if published is None or published.get("access") != PUBLIC:
        user_uuid = _check_user(calls, asked, uuid, container)
    if container is None:
        raise Unavailable(f"container request {uuid} has no container yet; try again when it runs")
    if published is None:
        raise _unpublished(uuid, port)
    _check_state(container, anybody=not user_uuid)
    return Grant(container, port, user_uuid)


def _found(calls: ApiCalls, found: Ports, asked: Asked) -> tuple[str, int, dict[str, Any] | None]:
    """Return what the name leads to: a UUID, a port, and the container, as root; None for one that is not there."""
    external = asked.target.external_port
    for _ in range(2):
        uuid, port = found.find(asked.target, calls.as_root(asked.request_id))
        container = _container(calls, uuid, asked.request_id)
        if not external or _has(container, port, external):
            return uuid, port, container
        found.forget(external)  # it may be another container's by now
    raise ContainerEnded(f"port {external} leads to no container now; look up its address again")


def _has(container: dict[str, Any] | None, port: int, external: int) -> bool:
    """Say whether a container's port has the port ``external`` of the host now."""
    if container is None or container["state"] in access.ENDED:
        return False
    return (ports.entry(container, port) or {}).get("external_port") == external


def _container(calls: ApiCalls, uuid: str, request_id: str) -> dict[str, Any] | None:
    """Return the container, itself or of a request, as root; None for one that is not there."""
    if is_request(uuid):
        request = _get(calls, "container_requests", uuid, ["uuid", "container_uuid"], request_id)
        uuid = (request or {}).get("container_uuid") or ""
    return _get(calls, "containers", uuid, _ATTRIBUTES, request_id) if uuid else None


def _get(calls: ApiCalls, resource: str, uuid: str, select: list[str], request_id: str) -> dict[str, Any] | None:
    try:
        return calls.as_root(request_id).get(resource, uuid, select=select)
    except NotFound:
        return None
    except HttpError as error:
        raise as_roots(error, f"the API did not show {uuid}") from error


def _check_user(calls: ApiCalls, asked: Asked, uuid: str, container: dict[str, Any] | None) -> str:
    """Return the UUID of a user who may use all published ports, or raise the refusal; what is not readable is 404."""
    if not asked.token:
        raise Unauthorized(
            "this page of a container needs an API token: open it from Workbench, or add ?arvados_api_token=TOKEN to "
            "the address once"
        )
    api = calls.as_user(asked.token, asked.request_id)
    user = api.current_user()
    access.check_active(user)
    access.check_scopes(api.get("api_client_authorizations", "current"), "using ports of containers")
    api.get("container_requests" if is_request(uuid) else "containers", uuid, select=["uuid"])
    if container is not None and not access.is_administrator(user):
        requests = calls.requests_of(str(container["uuid"]), asked.request_id)
        access.check_submitter(user, container, requests, "use its ports")
    return access.user_uuid(user)


def _check_state(container: dict[str, Any], *, anybody: bool) -> None:
    """Raise unless the container runs. How it ended, and where its log is, is not for ``anybody``."""
    uuid = container["uuid"]
    try:
        access.check_state(container)
    except ContainerEnded as error:
        if anybody:
            raise ContainerEnded(f"container {uuid} has ended; ask whoever gave you this address") from error
        raise
    except Unavailable as error:
        if anybody:
            raise Unavailable(f"container {uuid} cannot be reached now; try again later") from error
        raise


def _unpublished(uuid: str, port: int) -> Forbidden:
    return Forbidden(
        f'port {port} of {uuid} is not published; submit it with published_ports: {{"{port}": {{"access": "private", '
        f'"label": "my service", "initial_path": ""}}}}, or use arvados-client open {uuid} {port}'
    )
