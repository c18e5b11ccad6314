"""The host keys of a gateway behind a controller that does not pass them on with a session, as stock Arvados does.

Owns the second way to them: the gateway names its keys in its answers to requests for the container's log, and a stock
controller passes such answers on, once it has checked the gateway's proof. Only for sessions without keys of their own.
"""

from __future__ import annotations

from arv_ssh import uuids
from arv_ssh.client.controller import HOST_KEY_HEADER, OTHER_HOST_KEYS_HEADER, Controller
from arv_ssh.errors import ArvSshError

_FILE = "crunch-run.txt"
"""Any file will do, whether it is there or not: the keys are in the head of every answer."""


def keys_by_log(controller: Controller, container: str) -> list[str]:
    """Return the keys of the gateway of ``container``, Ed25519 first; none where it does not name them."""
    from arv_ssh.client.listing import page

    try:
        filters = [["container_uuid", "=", container]]
        requests = page(controller, "container_requests", filters=filters, select=["uuid"], limit=1)
        request = str(requests[0]["uuid"]) if requests else ""
        if not uuids.is_container_request(request):
            return []
        headers = controller.heads(f"container_requests/{request}/log/{container}/{_FILE}")
    except ArvSshError:
        return []
    named = (headers.get(name) for name in (HOST_KEY_HEADER, OTHER_HOST_KEYS_HEADER))
    return [key for text in named if text for key in text.split(", ")]
