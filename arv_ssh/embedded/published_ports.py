"""Published ports of the embedded API: what a request may say of them, their addresses, and the links that name them.

Owns the rules of ``published_ports`` and of links of the class ``published_port``, as Arvados has them. How a request
for such an address is served is the controller's business.
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import select

from arv_ssh import uuids
from arv_ssh.embedded import permissions
from arv_ssh.embedded.call import Call
from arv_ssh.embedded.models import RUNNING, Container, ContainerRequest, Link
from arv_ssh.errors import Unprocessable

LINK = "published_port"
KEYS = frozenset({"access", "label", "initial_path"})
ACCESS = ("private", "public")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A label of a host name (RFC 1123 §2.1)."""


def check(request: ContainerRequest) -> None:
    """Raise :class:`Unprocessable` naming what of ``published_ports`` is wrong."""
    for port, entry in request.published_ports.items():
        if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) <= 65535):
            raise Unprocessable(f"published_ports has {port[:40]!r}, which is not a port from 1 to 65535")
        if not isinstance(entry, dict) or entry.keys() - KEYS:
            raise Unprocessable(f"port {port} of published_ports must be an object with {', '.join(sorted(KEYS))}")
        if entry.get("access") not in ACCESS:
            raise Unprocessable(f"access of published port {port} must be private or public")
        if not isinstance(entry.get("label"), str) or not entry["label"]:
            raise Unprocessable(f"label of published port {port} must be a text for people")
        if not isinstance(entry.get("initial_path", ""), str):
            raise Unprocessable(f"initial_path of published port {port} must be a text")


def assign(call: Call, container: Container) -> None:
    """Give a container that begins to run its ports' addresses, where the cluster has web services."""
    services = call.config.web_services
    taken = _taken(call) if services.by_port else set()
    assigned: dict[str, Any] = {}
    for port, entry in container.published_ports.items():
        external = _free(taken, services.port_min, services.port_max) if services.by_port else 0
        taken.add(external)
        added: dict[str, Any] = {"external_port": external} if external else {}
        if base := services.base_url(container.uuid, port, external):
            added |= {"base_url": base, "initial_url": base + str(entry.get("initial_path", "")).lstrip("/")}
        assigned[port] = entry | added
    container.published_ports = assigned


def _taken(call: Call) -> set[int]:
    running = call.session.scalars(select(Container.published_ports).where(Container.state == RUNNING))
    return {entry.get("external_port", 0) for ports in running for entry in ports.values()}


def _free(taken: set[int], low: int, high: int) -> int:
    """Return the lowest port that is free, 0 when none is."""
    return next((port for port in range(low, high + 1) if port not in taken), 0)


def check_link(call: Call, link: Link) -> None:
    """Raise unless ``link`` gives a port of a request that the caller may change a name of its own."""
    name, head = link.name or "", link.head_uuid or ""
    if not _NAME.fullmatch(name) or uuids.kind(name[:27]) is not None:
        raise Unprocessable(f"the name of a {LINK} must be a label of a host name, such as my-notebook, not {name!r}")
    if uuids.kind(head) != uuids.CONTAINER_REQUEST:
        raise Unprocessable(f"head_uuid {head!r} of a {LINK} must be a container request")
    permissions.find(call, ContainerRequest, head, permissions.WRITE)
    port = link.properties.get("port")
    if type(port) is not int or not 0 < port <= 65535:
        raise Unprocessable(f"properties of a {LINK} must have a port from 1 to 65535, not {port!r}")
    same = select(Link.uuid).where(Link.link_class == LINK, Link.name == name, Link.uuid != link.uuid)
    if call.session.scalar(same.limit(1)):
        raise Unprocessable(f"the name {name!r} is taken by another {LINK}; choose another one")
