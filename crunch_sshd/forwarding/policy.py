"""What a cluster lets its users forward. Pure.

Owns the decisions and the sentences of the refusals. The settings come from ``Containers.ShellAccess.Forwarding`` of
the cluster's config; the dispatcher hands them to crunch-run as the JSON text of ``--forwarding``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from arv_ssh.config import destination
from arv_ssh.config.destination import Destination
from arv_ssh.errors import UsageError

ANYWHERE = destination.parse("*")
KINDS = ("local", "remote", "unix", "agent")
_WORDS = {
    "local": "local and dynamic forwarding",
    "remote": "remote forwarding",
    "unix": "forwarding of unix sockets",
    "agent": "agent forwarding",
}


@dataclass(frozen=True)
class Policy:
    """Which kinds are allowed, and for ``local`` the destinations: by default all that the container can route to.

    ``local`` is ``ssh -L``, ``-D`` and ``-W``; ``remote`` is ``-R``; ``unix`` is either with a socket's path inside the
    container; ``agent`` is ``-A``.
    """

    local: bool = True
    remote: bool = True
    unix: bool = True
    agent: bool = True
    destinations: tuple[Destination, ...] = (ANYWHERE,)

    def refusal(self, kind: str) -> str:
        """Return why a kind of forwarding is not allowed, "" when it is."""
        return "" if getattr(self, kind) else f"{_WORDS[kind]} is switched off by this cluster's configuration"

    def reachable(self, host: str, found: Iterable[tuple[str, bool]], port: int) -> list[str]:
        """Return the allowed addresses of ``host``; ``found`` says of each whether it is the container's own."""
        return [
            address
            for address, own in found
            if any(pattern.matches(host, address, own, port) for pattern in self.destinations)
        ]


DEFAULT_POLICY = Policy()


def from_json(text: str) -> Policy:
    """Read the text of ``--forwarding``: an object with any of the fields of :class:`Policy`."""
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise UsageError("--forwarding is not a JSON object") from error
    if not isinstance(fields, dict) or set(fields) - {*KINDS, "destinations"}:
        raise UsageError(f"--forwarding is a JSON object with the keys {', '.join(KINDS)} and destinations")
    patterns = fields.pop("destinations", ["*"])
    if not isinstance(patterns, list) or not all(isinstance(one, str) for one in patterns):
        raise UsageError("destinations in --forwarding is a list of patterns")
    if not all(isinstance(value, bool) for value in fields.values()):
        raise UsageError(f"{', '.join(KINDS)} in --forwarding are true or false")
    return Policy(**fields, destinations=tuple(destination.parse(one) for one in patterns))
