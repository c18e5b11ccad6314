"""What a dispatcher needs of the place where crunch-runs run: one machine, or the nodes of a Slurm cluster.

Owns the words of that seam. Knows no record of a container and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, Protocol

from arv_ssh.errors import ArvSshError


class CannotRun(ArvSshError):
    """The container can never run here; the sentence says which of its constraints is in the way."""


class Life(Enum):
    """What is known of a container's crunch-run."""

    ALIVE = auto()
    """It runs, or is about to."""
    GONE = auto()
    """It has ended, or there never was one."""
    UNSUBMITTED = auto()
    """It was not started, though its container is locked: the place where it was to run did not answer."""
    UNKNOWN = auto()
    """It may be another dispatcher's, or its leftovers are just being removed: leave it alone for now."""


class Runs(Protocol):
    """The crunch-runs of one dispatcher. Only one thread calls the methods.

    ``fields`` are the attributes of a record that :meth:`start` reads beside its UUID; they may be large, so they are
    asked for only then.
    """

    fields: tuple[str, ...]

    def look(self) -> None:
        """See what lives now; raise when that cannot be known, and nothing may be decided."""

    def known(self) -> set[str]:
        """Return the containers with a crunch-run, or with leftovers to remove."""

    def life(self, uuid: str) -> Life:
        """Say what is known of a container's crunch-run."""

    def start(self, record: dict[str, Any], take: Callable[[], str]) -> bool:
        """Start a container's crunch-run; False when an earlier one of the same container is still leaving.

        ``take`` locks the container and returns its token; it is called once nothing else stands in the way. Raises
        :class:`CannotRun`.
        """

    def end(self, uuid: str, *, kill: bool) -> bool:
        """Ask a crunch-run to end, or kill it; say whether there was one to ask."""

    def clean_up(self, uuid: str) -> None:
        """Begin to remove what a dead crunch-run left, and forget it once that is done."""

    def why_gone(self, uuid: str) -> str:
        """Say why a crunch-run is gone: "crunch-run ended unexpectedly", or more where more is known."""

    def log_place(self, uuid: str) -> str:
        """Name the directory of a crunch-run's log."""

    def hopeless(self, uuid: str) -> str:
        """Say why a living crunch-run will never begin to run its container; "" when it may."""

    def arrange(self, containers: Sequence[str]) -> None:
        """Bring those that wait into the order of ``containers``, the most urgent first."""
