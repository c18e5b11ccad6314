"""From the Host header of a request to what it names: a container's port, a link, or one of the cluster's ports.

Pure: owns the forms of the names (``UUID-PORT``, the name of a ``published_port`` link, a port of the one host). Does
not know what exists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from arv_ssh import uuids
from arv_ssh.config.web_services import WebServices
from arv_ssh.errors import BadRequest

_UUID_AND_PORT = re.compile(r"([0-9a-z]{5}-(?:dz642|xvhdp)-[0-9a-z]{15})-(.*)")
HTTPS = 443


@dataclass(frozen=True)
class Target:
    """What a request is for: ``port`` of the container (request) ``uuid``, a link's ``name``, or an external port."""

    uuid: str = ""
    port: int = 0
    name: str = ""
    external_port: int = 0


def is_web_service(services: WebServices, host: str) -> bool:
    """Say whether a request with that Host header is for a web service, whatever it is called."""
    return _label(services, host) is not None


def target(services: WebServices, host: str) -> Target:
    """Return what a Host header of a web service names; raise :class:`BadRequest` for an impossible port."""
    label = _label(services, host) or ""
    if label.startswith(":"):
        return Target(external_port=int(label[1:]))
    found = _UUID_AND_PORT.fullmatch(label)
    if not found:
        return Target(name=label)
    uuid, port = found.groups()
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) <= 65535):
        raise BadRequest(f"{port[:40]!r} in the name {label[:80]} is not a port; it must be a number from 1 to 65535")
    return Target(uuid=uuid, port=int(port))


def is_request(uuid: str) -> bool:
    """Say whether ``uuid`` is a container request's."""
    return uuids.kind(uuid) == uuids.CONTAINER_REQUEST


def _label(services: WebServices, host: str) -> str | None:
    """Return what stands in the place of the ``*``, or ":PORT" of the one host, or None for any other host."""
    try:
        parts = urlsplit(f"//{host}")
        name, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return None
    if services.by_port:
        inside = port is not None and services.port_min <= port <= services.port_max
        return f":{port}" if inside and name == services.host else None
    # A proxy in front may leave out the port that its own clients need not give.
    if not services.by_name or (port or HTTPS) != services.port:
        return None
    suffix = services.host[1:]
    return name.removesuffix(suffix) if name.endswith(suffix) and len(name) > len(suffix) else None
