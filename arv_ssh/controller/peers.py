"""The other controllers of a cluster: the processes beside this one, and those of other hosts.

Owns the directory where the processes of one host find each other's private sockets, and the question whether a URL
is one of the cluster's controllers. Opens no connection.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_SOCKET = "controller-{}.sock"


@dataclass(frozen=True)
class Peers:
    """This process among the controllers of its cluster.

    ``run_dir`` is a directory of mode 0700 that the controllers of one host share. ``own_url`` is the internal URL by
    which controllers of other hosts reach this host's, "" where the config names none. ``internal_urls`` are those of
    the config.
    """

    run_dir: Path
    own_url: str
    internal_urls: tuple[str, ...]

    @property
    def own_socket(self) -> Path:
        """Return the path of this process's private socket; it speaks plain HTTP to the same handler as the port."""
        return self.run_dir / _SOCKET.format(os.getpid())

    def siblings(self) -> list[Path]:
        """Return the private sockets of the other live controller processes on this host."""
        return [path for path in sorted(self.run_dir.glob(_SOCKET.format("*"))) if self._is_sibling(path)]

    def _is_sibling(self, path: Path) -> bool:
        number = path.stem.removeprefix("controller-")
        return path != self.own_socket and number.isdigit() and _alive(int(number))

    def is_controller(self, url: str) -> bool:
        """Say whether ``url`` is one of the cluster's controllers (``Services.Controller.InternalURLs``)."""
        return url.rstrip("/") in self.internal_urls

    def others(self) -> tuple[str, ...]:
        """Return the internal URLs of the other hosts' controllers."""
        return tuple(url for url in self.internal_urls if url != self.own_url)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
