"""From what a user names to a container: its UUID, its container request's, or NAME.arv.

Owns which of the three it is. How a name is looked up is :mod:`arv_ssh.client.names`'s.
"""

from __future__ import annotations

from arv_ssh import uuids
from arv_ssh.errors import Unavailable
from arv_ssh.net.upgrade import quote

TYPE_CHECKING = False  # type checkers know the name without typing, which takes 4 ms to import
if TYPE_CHECKING:
    from arv_ssh.client.controller import Controller

NAME_SUFFIX = ".arv"
"""Ends a host name that is a container request's name."""


def resolve(controller: Controller, target: str, *, waiting: bool = False) -> str:
    """Return the UUID of the container that ``target`` leads to.

    With ``waiting``, a name may also lead to a container that does not run yet.
    Raise :class:`arv_ssh.errors.UsageError` for any other text, :class:`NotFound` or :class:`Unavailable` for a
    request without a container.
    """
    if target.endswith(NAME_SUFFIX):
        from arv_ssh.client import names

        name = target.removesuffix(NAME_SUFFIX)
        return names.find(controller, name.removesuffix(f".{controller.settings.cluster}"), waiting=waiting)
    if uuids.is_container(uuids.check_target(target)):
        return target
    # Only what is needed: a container request can have megabytes of mounts.
    select = quote('["uuid","state","container_uuid"]')
    record = controller.get(f"container_requests/{target}?select={select}", "container request", target)
    container, state = record.get("container_uuid"), record.get("state")
    if isinstance(container, str) and uuids.is_container(container):
        return container
    if not isinstance(state, str):
        raise controller.without("container request")
    step = "submit it first" if state == "Uncommitted" else "try again when it runs"
    raise Unavailable(f"container request {target} has no container yet ({state}); {step}")
