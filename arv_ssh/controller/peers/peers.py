"""The other controllers of a cluster: the processes beside this one, and those of other hosts.

Owns knowing which they are: the private sockets of this host's other processes, and whether a URL is one of the
cluster's controllers. Opens no connections.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from arv_ssh.controller.peers import private_socket

_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


@dataclass(frozen=True)
class Peers:
    """This process among the controllers of its cluster.

    ``own_socket`` is the path of this process's private socket, in the run directory of this host's controllers; it
    speaks plain HTTP to the same handler as the port. ``own_url`` is the internal URL by which controllers of other
    hosts reach this host's, "" if the config does not name one. ``internal_urls`` are those of the config.
    """

    own_socket: Path
    own_url: str
    internal_urls: tuple[str, ...]

    @property
    def run_dir(self) -> Path:
        """Return the directory of mode 0700 that the controllers of this host share."""
        return self.own_socket.parent

    def siblings(self) -> list[Path]:
        """Return the private sockets of the other living controller processes on this host."""
        return [path for path in private_socket.living(self.run_dir) if path != self.own_socket]

    def is_controller(self, url: str) -> bool:
        """Say whether ``url`` is one of the cluster's controllers (``Services.Controller.InternalURLs``)."""
        return url.rstrip("/") in self.internal_urls

    def own_name(self, *, host: bool) -> str:
        """Return the name by which others ask this one: its host's URL ("" if unknown), or its private socket."""
        return self.own_url if host else str(self.own_socket)

    def others(self) -> tuple[str, ...]:
        """Return the internal URLs of the other hosts' controllers."""
        return tuple(url for url in self.internal_urls if url != self.own_url)


def url_of(listen: tuple[str, int], internal_urls: Iterable[str]) -> str:
    """Return the internal URL that leads to a controller listening on ``listen``, "" if there is none."""
    host, port = listen
    for url in internal_urls:
        parts = urlsplit(url)
        if parts.hostname and port == port_of(url) and (
            parts.hostname == host or host in _WILDCARDS and is_of_this_machine(parts.hostname)
        ):
            return url
    return ""


def port_of(url: str) -> int:
    """Return the port that a URL leads to."""
    parts = urlsplit(url)
    return (443 if parts.scheme == "https" else 80) if parts.port is None else parts.port


def is_of_this_machine(host: str) -> bool:
    """Say whether a name or address is this machine's, that is, whether a socket can be bound to it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with closing(socket.socket(family, kind, protocol)) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True
