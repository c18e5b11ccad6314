"""A process's record of its own actions, by the mode of ``Containers.ShellAccess.Audit``.

Owns the difference between the modes: "off" records nothing, "on" does not wait for the disk, "required" lets
nothing begin before its record is on the disk. Knows nothing of what is recorded.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

from arv_ssh.audit.chain_file import ChainFile
from arv_ssh.audit.journal import Journal
from arv_ssh.errors import Unavailable
from arv_ssh.log import event

logger = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds that a session waits for its record to be on the disk, where it must be."""
LAST_WRITES = 5.0
"""Seconds to write waiting records when the process stops."""
MAX_TEXT = 16 * 1024
"""Characters of a client's text that a record keeps; of a longer text only the length is recorded."""


class NotRecorded(Unavailable):
    """A required record could not be written, so the action must not begin."""


class Trail:
    """The audit of one process, which ``program`` names in the files of ``directory``. Any thread."""

    def __init__(self, mode: str = "off", directory: Path = Path(), program: str = "") -> None:
        self._directory = directory
        self.required = mode == "required"
        """Whether an action may begin only once its record is on the disk."""
        file = ChainFile(directory, program)
        self._journal = None if mode == "off" else Journal(file, sync=self.required)

    @property
    def on(self) -> bool:
        """Say whether anything is recorded."""
        return self._journal is not None

    @property
    def lost(self) -> int:
        """Records lost so far, because the disk did not take them in time."""
        return self._journal.lost if self._journal is not None else 0

    def note(self, name: str, **fields: Any) -> None:
        """Record what happened. Never blocks."""
        if self._journal is not None:
            self._journal.append(name, **fields)

    def begin(self, name: str, **fields: Any) -> None:
        """Record what is about to happen; blocks where it must be on the disk before, and raises :class:`NotRecorded`.

        Not for an event loop, nor for a thread that must go on reading.
        """
        if (future := self.commit(name, **fields)) is not None:
            try:
                future.result(PATIENCE)
            except (OSError, TimeoutError, CancelledError) as error:
                future.cancel()
                raise self.refusal(error) from error

    async def begin_async(self, name: str, **fields: Any) -> None:
        """Do as :meth:`begin` without blocking the event loop."""
        if (future := self.commit(name, **fields)) is not None:
            try:
                await asyncio.wait_for(asyncio.wrap_future(future), PATIENCE)
            except (OSError, TimeoutError) as error:
                raise self.refusal(error) from error

    def commit(self, name: str, **fields: Any) -> Future[None] | None:
        """Record what is about to happen; return a future of its arrival on disk, None if the mode does not wait.

        Never blocks.
        """
        if self._journal is None or not self.required:
            self.note(name, **fields)
            return None
        return self._journal.commit(name, **fields)

    def refusal(self, error: BaseException) -> NotRecorded:
        """Return the message for a user when ``error`` kept a record from being written; the log gets the details."""
        late = not isinstance(error, OSError) or isinstance(error, TimeoutError)
        reason = f"it takes more than {PATIENCE:.0f} s" if late else getattr(error, "strerror", None) or str(error)
        where = str(self._directory)
        event(logger, "refused: cannot write the audit record", level=logging.ERROR, directory=where, reason=reason)
        return NotRecorded(
            f"this cluster records all sessions, but the record cannot be written ({reason}); tell its administrator"
        )

    def close(self) -> None:
        """Write what waits and end the file. Blocks up to LAST_WRITES seconds."""
        if self._journal is not None:
            self._journal.close(LAST_WRITES)


OFF = Trail()


def text(value: str | bytes) -> str:
    """Return a client's text as a record keeps it: of bounded length, escaping invalid UTF-8.

    A str holds such bytes in the form that ``os.fsdecode`` gives them.
    """
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    value = raw.decode("utf-8", "backslashreplace")
    return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}… ({len(value)} characters)"
