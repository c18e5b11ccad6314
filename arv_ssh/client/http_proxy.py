"""The HTTP proxy that stands before the API host: HTTPS_PROXY and NO_PROXY, and the words of CONNECT (RFC 9110 §9.3.6).

Owns both texts, read by hand because ``urllib`` would cost ssh-proxy 30 ms. Does no I/O. A proxy's password is in no
error and no ``repr``.
"""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Mapping

from arv_ssh.client.settings import can_be_resolved
from arv_ssh.errors import ArvSshError, BadGateway, ConfigError, Forbidden, Unavailable

ANSWER_LIMIT = 16 * 1024
"""Bytes of a proxy's head; a refusal's page comes after it and is not read."""

_URL = re.compile(
    r"(?:([a-z0-9+.-]+)://)?(?:([^/@]*)@)?(?:\[([0-9A-Fa-f:.%]+)\]|([^\s/:@\[\]]+))(?::([0-9]{1,5}))?/?", re.IGNORECASE
)
_PORT = 80
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([^\r\n]*))?\r\n")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_ADDRESS = re.compile(r"[0-9.]+|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*")


class Proxy:
    """One HTTP proxy; ``variable`` is where it was named, for messages."""

    def __init__(self, host: str, port: int, credentials: str, variable: str) -> None:
        self.host = host
        self.port = port
        self.variable = variable
        self._credentials = credentials

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"the proxy {host}:{self.port} ({self.variable})"

    def request(self, authority: str) -> bytes:
        """Return the request for a tunnel to ``authority``, HOST:PORT."""
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        if self._credentials:
            basic = binascii.b2a_base64(self._credentials.encode("latin-1"), newline=False).decode()
            lines.append(f"Proxy-Authorization: Basic {basic}")
        return "\r\n".join([*lines, "", ""]).encode()

    def answered(self, data: bytes, authority: str) -> bytes | None:
        """Return what follows the head in ``data``, the answer so far; None while the head is not complete.

        Raise, saying what to do, if the proxy refuses the tunnel or is not an HTTP proxy.
        """
        head, end, rest = data.partition(b"\r\n\r\n")
        status = _STATUS.match(head + b"\r\n")
        if not b"HTTP/1."[: len(data)] == data[:7] or (b"\r\n" in data and not status) or len(head) > ANSWER_LIMIT:
            raise BadGateway(f"{self} does not answer like an HTTP proxy; check {self.variable}")
        if not end or not status:
            return None
        if status.group(1).startswith(b"2"):
            return rest
        raise self._refusal(int(status.group(1)), (status.group(2) or b"").decode("latin-1"), authority)

    def _refusal(self, status: int, reason: str, authority: str) -> ArvSshError:
        said = f"{status} {reason}".rstrip()
        if status == 407:
            step = "check the user name and password there" if self._credentials else (
                f"set {self.variable} to http://USER:PASSWORD@HOST:PORT"
            )  # fmt: skip
            return Forbidden(f"{self} requires its own user name and password ({said}); {step}")
        if status < 500:
            return Forbidden(
                f"{self} does not let you connect to {authority} ({said}); ask its administrator, or name the host in "
                "NO_PROXY"
            )
        return Unavailable(f"{self} could not connect to {authority} ({said}); check ARVADOS_API_HOST, or set NO_PROXY")


def choose(host: str, port: int, environ: Mapping[str, str] | None = None) -> Proxy | None:
    """Return the proxy for ``host``, None for none: of https_proxy, HTTPS_PROXY, all_proxy and ALL_PROXY the first set.

    Raise :class:`ConfigError` for a text that names no HTTP proxy.
    """
    environ = os.environ if environ is None else environ
    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        if environ.get(variable):
            if _excluded(host.lower(), port, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
                return None
            return _read(environ[variable], variable)
    return None


def _read(text: str, variable: str) -> Proxy:
    # The text is not shown: it may hold a password.
    found = _URL.fullmatch(text.strip())
    host = (found.group(3) or found.group(4)) if found else ""
    if not found or not 0 < int(found.group(5) or _PORT) < 65536 or not can_be_resolved(host):
        raise ConfigError(f"{variable} does not name a proxy; it should be http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")
    scheme = (found.group(1) or "http").lower()
    if scheme != "http":
        raise ConfigError(f"{variable} names a proxy that speaks {scheme}; use an http:// one, or set NO_PROXY")
    login = (found.group(2) or "").encode(errors="surrogateescape").decode("latin-1")
    credentials = _ESCAPE.sub(lambda code: chr(int(code.group(1), 16)), login)
    if credentials and ":" not in credentials:
        credentials += ":"
    return Proxy(host, int(found.group(5) or _PORT), credentials, variable)


def _excluded(host: str, port: int, no_proxy: str) -> bool:
    """Say whether NO_PROXY names the host: itself, a domain it is in, with its port or none, a network, or ``*``."""
    for entry in no_proxy.lower().replace(",", " ").split():
        name, colon, own_port = entry.rpartition(":")
        if not colon or not own_port.isdigit() or (name.count(":") and not name.endswith("]")):
            name, own_port = entry, ""
        name = name.strip("[]").removeprefix("*").lstrip(".") if entry != "*" else ""
        if own_port and int(own_port) != port:
            continue
        if entry == "*" or host == name or (name and host.endswith(f".{name}")) or _in_network(host, name):
            return True
    return False


def _in_network(host: str, network: str) -> bool:
    if not _ADDRESS.fullmatch(host) or ("/" not in network and ":" not in network):
        return False
    import ipaddress  # 5 ms, for those who have such an entry and such a host

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
