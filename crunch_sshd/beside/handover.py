"""What the launcher hands to the sidecar, and what becomes of the launcher's process.

Owns the one message between the two, in a memory file that is gone once it is read: no argument list, environment or
file shows the secrets in it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from crunch_sshd.gateway_options import GatewayOptions


@dataclass(frozen=True, kw_only=True)
class Handover:
    """All that the sidecar of one container has to know.

    ``launcher`` is the pid of the process that became stock crunch-run, ``launcher_session`` its session, and
    ``detaches`` says whether stock then starts itself again and that one runs the container. ``engine`` is stock's word
    for it. ``token`` is the dispatcher's.
    """

    uuid: str
    secret: str = field(repr=False)
    token: str = field(repr=False)
    options: dict[str, Any]
    launcher: int
    launcher_session: int
    detaches: bool
    engine: str

    def gateway_options(self) -> GatewayOptions:
        """Return how the gateway is to serve."""
        return GatewayOptions.from_fields(self.options)

    def to_descriptor(self) -> int:
        """Return the descriptor of a memory file with the message, for :meth:`from_descriptor` after an exec."""
        descriptor = os.memfd_create("handover")
        with open(descriptor, "wb", closefd=False) as file:
            file.write(json.dumps(asdict(self)).encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    @classmethod
    def from_descriptor(cls, descriptor: int) -> Handover:
        """Read the message and close the descriptor."""
        with open(descriptor, "rb") as file:
            return cls(**json.loads(file.read()))
