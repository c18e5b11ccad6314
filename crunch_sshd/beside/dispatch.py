"""What a dispatcher tells of a container: in JSON on standard input (cloud), or in the environment (Slurm, LSF).

Owns reading both, and what stock is given in their place: the same bytes and variables, with one exception. Stock must
have a gateway address that it listens at; without one it opens a tunnel, and writes that one's address to the record
again and again, over ours. The configuration may hold the cluster's root token: it is neither kept nor logged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

INNER_ADDRESS = "127.0.0.1:0"
"""Where stock's gateway listens when the dispatcher names no address: where ours, beside it, reaches it."""
ADDRESS = "GatewayAddress"
SECRET = "GatewayAuthSecret"  # noqa: S105 - a variable's name
TOKEN = "ARVADOS_API_TOKEN"  # noqa: S105
HOST = "ARVADOS_API_HOST"
INSECURE = "ARVADOS_API_HOST_INSECURE"


@dataclass(frozen=True)
class Dispatched:
    """The variables that stock would see, and what it is given: ``stdin`` is None where it keeps its own."""

    variables: dict[str, str]
    environment: dict[str, str]
    stdin: bytes | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        """The host at which the dispatcher expects the gateway, "" where it names none."""
        return self.variables.get(ADDRESS, "").rpartition(":")[0].strip("[]")

    @property
    def is_complete(self) -> bool:
        """Say whether a gateway can be served with what was told."""
        return all(self.variables.get(name) for name in (SECRET, TOKEN, HOST))

    def with_inner_address(self) -> Dispatched:
        """Return the same, in which stock's gateway has an address to listen at."""
        if self.variables.get(ADDRESS):
            return self
        stdin = self.stdin
        if stdin is not None and ADDRESS in _env(stdin):  # there and empty: it would win over the environment's
            config = json.loads(stdin)
            config["Env"][ADDRESS] = INNER_ADDRESS
            stdin = json.dumps(config).encode()
        return Dispatched(self.variables, self.environment | {ADDRESS: INNER_ADDRESS}, stdin)


def read(environment: Mapping[str, str], stdin: bytes | None) -> Dispatched:
    """Return what was told; ``stdin`` is all of standard input where the call has ``--stdin-config``."""
    told = {} if stdin is None else _env(stdin)
    return Dispatched({**environment, **told}, dict(environment), stdin)


def _env(stdin: bytes) -> dict[str, str]:
    """Return the variables in the JSON on standard input; none where it is not what dispatchers write."""
    try:
        config: Any = json.loads(stdin)
        found = config["Env"]
        return {str(name): str(value) for name, value in found.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
