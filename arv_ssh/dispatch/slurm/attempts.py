"""What the dispatcher keeps of its jobs on disk: the attempts to run a container, and the nodes to clean up after them.

Owns the files in the state directory: written whole or not at all, before what they announce is done, so that a
dispatcher that is killed finds out what it was doing. None of them holds a secret.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from arv_ssh import uuids
from arv_ssh.errors import ConfigError


@dataclass
class Attempt:
    """One attempt to run a container.

    ``job`` is None until sbatch has said its number; it is above ``after``. ``unsubmitted``: Slurm did not take it.
    ``refused`` is Slurm's sentence where it did not want it. ``node`` is "" before it runs.
    """

    job: int | None = None
    after: int = 0
    node: str = ""
    partition: str = ""
    unsubmitted: bool = False
    refused: str = ""


@dataclass
class CleanUp:
    """A node where a container may have left something; ``job`` is the last one that was to remove it."""

    uuid: str
    node: str
    partition: str = ""
    job: int | None = None


Kept = TypeVar("Kept", Attempt, CleanUp)


class StateDirectory:
    """The files, read once and then kept in memory: one dispatcher has the directory for itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.attempts: dict[str, Attempt] = {}
        self.clean_ups: dict[tuple[str, str], CleanUp] = {}
        for file in path.glob("*.attempt"):
            if uuids.is_container(file.stem):
                self.attempts[file.stem] = _read(file, Attempt)
        for file in path.glob("*.clean-up"):
            found = _read(file, CleanUp)
            self.clean_ups[found.uuid, found.node] = found

    def keep(self, uuid: str, attempt: Attempt) -> None:
        """Write an attempt down."""
        self.attempts[uuid] = attempt
        self._write(f"{uuid}.attempt", asdict(attempt))

    def forget(self, uuid: str) -> None:
        """Forget an attempt that is over."""
        self.attempts.pop(uuid, None)
        (self._path / f"{uuid}.attempt").unlink(missing_ok=True)

    def keep_clean_up(self, clean_up: CleanUp) -> None:
        """Write down what is to be cleaned up."""
        self.clean_ups[clean_up.uuid, clean_up.node] = clean_up
        self._write(f"{clean_up.uuid}@{clean_up.node}.clean-up", asdict(clean_up))

    def forget_clean_up(self, clean_up: CleanUp) -> None:
        """Forget what is cleaned up."""
        self.clean_ups.pop((clean_up.uuid, clean_up.node), None)
        (self._path / f"{clean_up.uuid}@{clean_up.node}.clean-up").unlink(missing_ok=True)

    def _write(self, name: str, fields: dict[str, Any]) -> None:
        part = self._path / f"{name}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(fields, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path / name)


def _read(path: Path, kind: type[Kept]) -> Kept:
    """Read a file that this version, or another one, has written."""
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is not what this version of crunch-dispatch-slurm writes; remove it when its container has no job"
        ) from error
