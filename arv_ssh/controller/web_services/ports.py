"""From what a name stands for to a port of a container: links by their names, and the cluster's own ports.

Owns asking the API, as root: a name is no secret, and whether a user may use what it leads to is decided elsewhere.
Blocking, for threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from arv_ssh.api.client import ApiClient
from arv_ssh.controller.api_calls import as_roots
from arv_ssh.controller.web_services.names import Target
from arv_ssh.errors import BadGateway, ContainerEnded, HttpError, NotFound

REFRESH = 2.0
"""Seconds between two looks at which containers have which ports: unknown ports do not make work for the API."""
LINK = "published_port"


class Ports:
    """Where names lead. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._external: dict[int, tuple[str, int]] = {}
        self._looked = float("-inf")

    def find(self, target: Target, root: ApiClient) -> tuple[str, int]:
        """Return a container's or request's UUID, and the port; raise :class:`NotFound` when there is no such name."""
        if target.uuid:
            return target.uuid, target.port
        if target.external_port:
            return self._assigned(target.external_port, root)
        return _linked(target.name, root)

    def _assigned(self, external_port: int, root: ApiClient) -> tuple[str, int]:
        with self._lock:
            found = self._external.get(external_port)
            if found is None and self._clock() - self._looked >= REFRESH:
                self._looked = self._clock()
                self._external = _all_assigned(root)
                found = self._external.get(external_port)
        if found is None:
            raise ContainerEnded(f"port {external_port} leads to no container now; look up its address again")
        return found

    def forget(self, external_port: int) -> None:
        """Look again the next time: the container that had the port has it no more."""
        with self._lock:
            self._external.pop(external_port, None)
            self._looked = float("-inf")


def entry(record: dict[str, Any], port: int) -> dict[str, Any] | None:
    """Return a container's or request's ``published_ports`` entry of ``port``, None when it is not published."""
    found = (record.get("published_ports") or {}).get(str(port))
    return found if isinstance(found, dict) else None


def _linked(name: str, root: ApiClient) -> tuple[str, int]:
    try:
        links = root.list("links", filters=[["link_class", "=", LINK], ["name", "=", name]], limit=1)["items"]
    except HttpError as error:
        raise as_roots(error, f"the API did not say what {name!r} leads to") from error
    if not links:
        raise NotFound(f"no container has published a port under the name {name[:80]!r}; check the address")
    port = (links[0].get("properties") or {}).get("port")
    if not isinstance(port, int | float) or port != int(port) or not 0 < port < 65536:
        raise BadGateway(f"the link {links[0]['uuid']} of the name {name!r} has no port in its properties")
    return str(links[0]["head_uuid"]), int(port)


def _all_assigned(root: ApiClient) -> dict[int, tuple[str, int]]:
    try:
        running = root.list_all(
            "containers", filters=[["state", "=", "Running"]], select=["uuid", "published_ports"]
        )
    except HttpError as error:
        raise as_roots(error, "the API did not say which containers have which ports") from error
    return {
        external: (container["uuid"], int(port))
        for container in running
        for port, published in (container.get("published_ports") or {}).items()
        if isinstance(published, dict) and isinstance(external := published.get("external_port"), int) and external
    }
