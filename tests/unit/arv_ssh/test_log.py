"""Log lines: one JSON object each, with the fields of the event."""

from __future__ import annotations

import json
import logging
import sys

from arv_ssh import log


def test_line() -> None:
    """An event is one line of JSON with time, level, logger, message and its fields."""
    record = logging.LogRecord("arv_ssh.x", logging.INFO, "f", 1, "session %s", ("opened",), None)
    record.fields = {"request_id": "req-1", "seconds": 0.5}
    record.created, record.msecs = 1_800_000_000.042, 42.0
    line = log.JsonFormatter().format(record)
    assert json.loads(line) == {
        "time": "2027-01-15T08:00:00.042Z",
        "level": "info",
        "logger": "arv_ssh.x",
        "msg": "session opened",
        "request_id": "req-1",
        "seconds": 0.5,
    }


def test_exception_stays_in_the_line() -> None:
    """A traceback is a field: the log stays one object a line."""
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    line = log.JsonFormatter().format(record)
    assert "\n" not in line and "broken\nin two" in json.loads(line)["exception"]


def test_event_names_fields() -> None:
    """Fields are handed on by name, even one called message or logger; the level is not one of them."""
    seen: list[logging.LogRecord] = []
    logger = logging.Logger("test")

    def keep(record: logging.LogRecord) -> bool:
        seen.append(record)
        return False

    logger.addFilter(keep)
    log.event(logger, "text", level=logging.WARNING, logger="field", message="field too")
    assert seen[0].levelno == logging.WARNING
    assert seen[0].__dict__["fields"] == {"logger": "field", "message": "field too"}
