"""Logging: one JSON line per event on stderr, with the request id that follows a session through every part.

Owns the format and the rule that what is logged is named field by field: there is no place where a token could slip in.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO


class JsonFormatter(logging.Formatter):
    """Write a record as one JSON object: time (RFC 3339, UTC), level, logger, message, and the fields of ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: int = logging.INFO, *files: TextIO) -> None:
    """Send this process's log to stderr and ``files`` as JSON lines; other libraries' chatter starts at warnings."""
    handlers = [logging.StreamHandler(file) for file in (sys.stderr, *files)]
    for handler in handlers:
        handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    for name in ("arv_ssh", "crunch_sshd"):
        logging.getLogger(name).setLevel(level)
    # paramiko reports every broken handshake with a traceback; the session's own log line says it in words.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)


def event(logger: logging.Logger, message: str, /, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log ``message`` with named ``fields``."""
    logger.log(level, message, extra={"fields": fields})
