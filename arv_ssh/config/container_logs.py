"""Where containers' logs lie on this machine, and how long and how many are kept: a part of ``LocalDispatch``. Pure.

The dispatcher writes and sweeps the directory; a controller with the embedded API on the same machine reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arv_ssh.config import byte_size
from arv_ssh.errors import ConfigError

DIRECTORY = Path("/var/log/arv-ssh/containers")
MAX_AGE = 14 * 86400.0
"""Seconds: the two weeks that stock crunch-run keeps a container's log for, should nobody save it."""
MAX_SIZE = 10 << 30
"""Bytes: a log has no limit of its own, and a disk does."""


@dataclass(frozen=True)
class ContainerLogs:
    """``directory`` has one directory a container, by its UUID.

    What ended containers left is kept for ``max_age`` seconds, and up to ``max_size`` bytes in all, the oldest going
    first; 0 means no limit.
    """

    directory: Path = DIRECTORY
    max_age: float = MAX_AGE
    max_size: int = MAX_SIZE


def parse(section: dict[str, Any], where: str) -> ContainerLogs:
    """Read the keys LogDirectory, LogMaxAge and LogMaxSize of the section ``where``."""
    directory = section.get("LogDirectory", str(DIRECTORY))
    if not isinstance(directory, str) or not directory.startswith("/"):
        raise ConfigError(f"{where}.LogDirectory is {directory!r}; it must be an absolute path")
    age = section.get("LogMaxAge", MAX_AGE)
    if isinstance(age, bool) or not isinstance(age, int | float) or not 0 <= age < float("inf"):
        raise ConfigError(f"{where}.LogMaxAge is {age!r}; it must be a number of seconds from 0 (0: no limit)")
    return ContainerLogs(Path(directory), float(age), _size(section.get("LogMaxSize", MAX_SIZE), where))


def _size(value: object, where: str) -> int:
    try:
        return byte_size.parse(value)
    except ValueError as error:
        raise ConfigError(f"{where}.LogMaxSize is {value!r}; it must be a size such as 10GiB (0: no limit)") from error
