"""An audit record's way from its caller to the disk: a bounded queue and one thread that writes.

Ensures that only callers who ask to wait for the disk do so, and that records keep their order; counts records that
found no room. Knows nothing of what is recorded.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple

from arv_ssh.audit.chain_file import ChainFile, timestamp
from arv_ssh.log import event

logger = logging.getLogger(__name__)

LIMIT = 10_000
"""Records that wait at most: some minutes of a busy process."""
LIMIT_SIZE = 16 * 1024 * 1024
"""Bytes of memory that they take at most: clients choose the texts, and a full disk takes nothing. As much again is for
records that must be on the disk before something begins: what is only noted takes no room from them."""
RECORD_COST = 1024
"""Bytes of memory that a record takes besides its texts."""
BATCH = 500
"""Records written in one piece."""
BATCH_SIZE = 1024 * 1024
"""Bytes of memory of those, after which no more are added: written out, a text takes up to six times as much."""
RETRY = 1.0
"""Seconds between attempts to write while the disk refuses."""
LOST = "audit.lost"
"""The event that says how many records before it found no room."""



class _Item(NamedTuple):
    record: dict[str, Any]
    future: Future[None] | None
    cost: int
    """Bytes of memory that it takes."""


class Journal:
    """Writes records to ``file``. Any thread may call its methods; with ``sync`` each write goes through to the disk.

    The thread begins with the first record, so that a process may fork before that.
    """

    def __init__(self, file: ChainFile, *, sync: bool, limit: int = LIMIT) -> None:
        self._file = file
        self._sync = sync
        self._limit = limit
        self._condition = threading.Condition()
        self._waiting: deque[_Item] = deque()
        self._size = 0
        self._urgent = 0
        self._closing = False
        self._failing = False
        self._thread: threading.Thread | None = None
        self._unreported = 0
        self.lost = 0
        """Records that were never written."""

    def append(self, name: str, **fields: Any) -> None:
        """Have a record written soon. Never blocks; with a full queue the record is lost, and counted."""
        with self._condition:
            if self._closing or len(self._waiting) >= self._limit or self._size >= LIMIT_SIZE:
                self._lose(1)
            else:
                self._put(_record(name, fields), None)

    def commit(self, name: str, **fields: Any) -> Future[None]:
        """Have a record written at once; the future is done when it is on the disk, or has the OSError why not.

        Never blocks. A future that is cancelled before the write began takes its record with it.
        """
        future: Future[None] = Future()
        with self._condition:
            if self._closing:
                future.set_exception(OSError("the program is stopping"))
            elif self._size >= 2 * LIMIT_SIZE:
                future.set_exception(OSError("too many records wait for the disk"))
            else:
                self._put(_record(name, fields), future)
        return future

    def close(self, timeout: float) -> None:
        """Write what waits and end the chain in good order; gives up after ``timeout`` seconds."""
        with self._condition:
            self._closing = True
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _put(self, record: dict[str, Any], future: Future[None] | None) -> None:
        item = _Item(record, future, _cost(record))
        self._waiting.append(item)
        self._size += item.cost
        self._urgent += future is not None
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
            self._thread.start()
        self._condition.notify()

    def _lose(self, count: int) -> None:
        self.lost += count
        self._unreported += count

    # The writer's thread.

    def _run(self) -> None:
        while batch := self._next():
            self._write(batch)
        with suppress(OSError):  # verify distinguishes a chain without its last record from one with it
            self._file.close()

    def _next(self) -> list[_Item]:
        """Wait for records to write; an empty result means the end."""
        with self._condition:
            if self._failing:
                self._condition.wait_for(lambda: self._urgent or self._closing, RETRY)
            self._condition.wait_for(lambda: self._waiting or self._closing)
            taken = list(self._batch())
            self._urgent -= sum(item.future is not None for item in taken)
        return taken

    def _batch(self) -> Iterator[_Item]:
        """Take records to write in one piece from those that wait. The caller holds the condition."""
        size = 0
        for _ in range(min(BATCH, len(self._waiting))):
            item = self._waiting.popleft()
            self._size -= item.cost
            size += item.cost
            yield item
            if size >= BATCH_SIZE:
                return

    def _write(self, batch: list[_Item]) -> None:
        batch = [item for item in batch if item.future is None or item.future.set_running_or_notify_cancel()]
        lost = self._unreported
        if not batch and not lost:
            return
        report = [_record(LOST, {"records": lost})] if lost else []
        try:
            self._file.write([*report, *(item.record for item in batch)], sync=self._sync)
        except OSError as error:
            self._failed(batch, error)
            return
        self._note(None)
        with self._condition:
            self._unreported -= lost
        for item in batch:
            if item.future is not None:
                item.future.set_result(None)

    def _failed(self, batch: list[_Item], error: OSError) -> None:
        """Notify waiting callers, and keep the rest for the next attempt if there is room; at the end it is lost."""
        self._note(error)
        for item in batch:
            if item.future is not None:
                item.future.set_exception(error)
        kept = [item for item in batch if item.future is None]
        with self._condition:
            room = 0 if self._closing else max(0, self._limit - len(self._waiting))
            self._lose(len(kept) - len(kept[:room]))
            self._waiting.extendleft(reversed(kept[:room]))
            self._size += sum(item.cost for item in kept[:room])

    def _note(self, error: OSError | None) -> None:
        """Log that writing begins to fail, or works again."""
        failing = error is not None
        if failing != self._failing:
            self._failing = failing
            words = "audit records cannot be written" if failing else "audit records are written again"
            event(logger, words, level=logging.ERROR if failing else logging.INFO, error=str(error), lost=self.lost)


def _record(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"time": timestamp(time.time()), "event": name, **fields}


def _cost(record: dict[str, Any]) -> int:
    return RECORD_COST + sum(sys.getsizeof(value) for value in record.values() if isinstance(value, str))
