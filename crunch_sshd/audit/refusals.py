"""The record of requests that a gateway refused before a session began.

Owns how many of them are recorded: everyone at the port can send requests, and would fill the disk of the audit. Must
not know why a request was refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from arv_ssh.errors import HttpError
from arv_ssh.log import event
from arv_ssh.net.http_messages import Request
from crunch_sshd.audit.channel_audit import GatewayAudit

logger = logging.getLogger(__name__)

RECORDS = 60
"""Requests without a controller's proof that are recorded one by one in an :data:`INTERVAL`; the rest is counted."""
INTERVAL = 60.0
"""Seconds. What has been counted is recorded with the first refusal after them, or when the gateway stops."""


class Refusals:
    """The refused requests of one gateway. Event loop; :meth:`close` when that has ended."""

    def __init__(
        self, audit: GatewayAudit, container_uuid: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._audit = audit
        self._container_uuid = container_uuid
        self._clock = clock
        self._until = 0.0
        self._recorded = 0
        self._counted = 0

    def record(self, request: Request, error: HttpError, proven: bool) -> None:
        """Record a refused request, of which only the sender's address is known; ``proven``: it is a controller."""
        if not proven and not self._may_record():
            self._counted += 1
            return
        facts = {"container_uuid": self._container_uuid, "request_id": request.request_id, "peer": request.peer}
        self._audit.connection(**facts, status=error.status).refuse(str(error))

    def _may_record(self) -> bool:
        if self._clock() >= self._until:
            self.close()
            self._until, self._recorded = self._clock() + INTERVAL, 0
        self._recorded += 1
        return self._recorded <= RECORDS

    def close(self) -> None:
        """Record how many were only counted, if any."""
        count, self._counted = self._counted, 0
        if count:
            reason = f"{count} more requests without a controller's proof within a minute, not recorded singly"
            self._audit.connection(container_uuid=self._container_uuid, count=count).refuse(reason)
            event(logger, "requests refused", level=logging.WARNING, container_uuid=self._container_uuid, count=count)
