"""Sparing a process paramiko, which the Docker SDK imports in case an engine is reached by SSH.

Owns that one decision. To be made before the SDK is imported, in a process that stays beside a job for days.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from typing import Any

MODULE = "docker.transport.sshconn"


def spare(modules: MutableMapping[str, Any] = sys.modules) -> None:
    """Have the import of the SDK's SSH fail, as it may, unless the engine is reached by it: 20 MB less."""
    if not os.environ.get("DOCKER_HOST", "").startswith("ssh://"):
        modules[MODULE] = None
