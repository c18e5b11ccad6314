"""``Services.ContainerWebServices``: under which names a browser reaches the ports of containers.

Owns the reading and checking of the section, whose keys are Arvados' own. Does not know how a name leads to a
container.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from arv_ssh.errors import ConfigError

_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True)
class WebServices:
    """Where containers' web services are, if anywhere.

    ``host`` is the host of the external URL. Behind a ``*``, each port of a container has a name; without one, each has
    a port of the host, from ``port_min`` to ``port_max``. ``port`` is the URL's own.
    """

    scheme: str = "https"
    host: str = ""
    port: int = 443
    port_min: int = 0
    port_max: int = 0

    @property
    def by_name(self) -> bool:
        """Say whether each port of a container has a name of its own."""
        return self.host.startswith("*")

    @property
    def by_port(self) -> bool:
        """Say whether each port of a container has a port of one host."""
        return bool(self.host) and not self.by_name and self.port_min > 0

    def url(self, host: str, port: int) -> str:
        """Return the URL of ``host`` and ``port``, without a slash at its end."""
        return f"{self.scheme}://{host}" if port == _PORTS[self.scheme] else f"{self.scheme}://{host}:{port}"

    def base_url(self, uuid: str, port: str, external_port: int = 0) -> str:
        """Return the URL of a container's ``port``, or "" where it has none."""
        if self.by_name:
            return self.url(f"{uuid}-{port}{self.host[1:]}", self.port) + "/"
        return self.url(self.host, external_port) + "/" if self.by_port and external_port else ""


def parse(section: dict[str, Any], where: str, controller_url: str = "") -> WebServices:
    """Read the section; raise :class:`ConfigError` naming the key that is wrong. No ExternalURL: no web services.

    ``controller_url`` must not be a container's.
    """
    url = section.get("ExternalURL") or ""
    low, high = (_port(section, key, where) for key in ("ExternalPortMin", "ExternalPortMax"))
    if not url:
        return WebServices()
    scheme, host, port = _split(url, f"{where}.ExternalURL")
    if low > high:
        raise ConfigError(f"{where}.ExternalPortMin is {low} and ExternalPortMax {high}; give the lower port first")
    if host.startswith("*") and (urlsplit(controller_url).hostname or "").endswith(host[1:]):
        raise ConfigError(f"{where}.ExternalURL {url} covers the controller's own {controller_url}; choose another")
    return WebServices(scheme, host, port, low, high)


def _split(url: Any, where: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme, 0)
    except (ValueError, TypeError, AttributeError):
        host, port = "", 0
    # Only at the very beginning, and with more behind it than the top of a domain.
    wild = not host.startswith("*") or (host[1:2] in (".", "-") and host.count(".") >= 1)
    if not host or not port or "*" in host[1:] or not wild:
        raise ConfigError(f"{where} is {url!r}; it must be a URL such as https://*.containers.zzzzz.example.org")
    return parts.scheme, host, port


def _port(section: dict[str, Any], key: str, where: str) -> int:
    value = section.get(key) or 0
    if type(value) is not int or not 0 <= value <= 65535:
        raise ConfigError(f"{where}.{key} is {value!r}; it must be a port, or 0 for none")
    return value
