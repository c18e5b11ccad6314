"""The container record as crunch-run sees it: read once, updated with patience.

Owns the rule of what is safe to send again: an update states the record's new values, so doing it twice is harmless,
and a refusal after a lost answer is checked against the record. Knows nothing of Docker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from arv_ssh import log
from arv_ssh.api.client import ApiClient
from arv_ssh.errors import BadGateway, ConfigError, GatewayTimeout, Unauthorized, Unavailable, Unprocessable
from crunch_sshd import gateway_options

logger = logging.getLogger(__name__)

PATIENCE = 300.0
"""Seconds an update is tried for: longer than a controller's restart; a container's exit status is worth the wait."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_PASSING = (BadGateway, GatewayTimeout, Unavailable)
_ENDED = ("Complete", "Cancelled")


class ContainerRecord:
    """One container's record, reached with the container's own token.

    ``pause`` waits for the given seconds and returns False when there is no point in going on (a signal came).
    """

    def __init__(self, api: ApiClient, uuid: str, pause: Callable[[float], bool]) -> None:
        self._api = api
        self._uuid = uuid
        self._pause = pause

    def with_pause(self, pause: Callable[[float], bool]) -> ContainerRecord:
        """Return the same record for another thread, with that thread's own way to wait."""
        return ContainerRecord(self._api, self._uuid, pause)

    def get(self) -> dict[str, Any]:
        """Return the record as it is now."""
        return self._patiently(lambda: self._api.get("containers", self._uuid), "read", PATIENCE)

    def update(self, attributes: dict[str, Any], patience: float = PATIENCE) -> None:
        """Set ``attributes``, trying again for ``patience`` seconds while the API is away; raise the API's refusal."""
        answers = 0

        def attempt() -> dict[str, Any]:
            nonlocal answers
            answers += 1
            try:
                return self._api.update("containers", self._uuid, attributes)
            except Unprocessable:
                # The first try may have succeeded and only its answer been lost.
                if answers > 1 and self._shows(attributes):
                    return {}
                raise
            except Unauthorized:
                # The same, for the last update: the container's token ends with the container.
                if answers > 1 and attributes.get("state") in _ENDED:
                    return {}
                raise

        self._patiently(attempt, "update", patience)

    def _shows(self, attributes: dict[str, Any]) -> bool:
        record = self._api.get("containers", self._uuid)
        return all(record.get(name) == value for name, value in attributes.items())

    def _patiently(self, call: Callable[[], dict[str, Any]], verb: str, patience: float) -> dict[str, Any]:
        return patiently(call, f"{verb} the record", self._pause, patience)


def api_client(environment: Mapping[str, str]) -> ApiClient:
    """Return a client for the API that ``environment`` names."""
    for name in ("ARVADOS_API_HOST", "ARVADOS_API_TOKEN"):
        if not environment.get(name):
            raise ConfigError(f"{name} is not set; the dispatcher sets it, or export it to run crunch-run by hand")
    return ApiClient(
        f"https://{environment['ARVADOS_API_HOST']}",
        environment["ARVADOS_API_TOKEN"],
        verify=not gateway_options.is_insecure(environment) and (environment.get("SSL_CERT_FILE") or True),
    )


def patiently(
    call: Callable[[], dict[str, Any]], what: str, pause: Callable[[float], bool], patience: float = PATIENCE
) -> dict[str, Any]:
    """Return what ``call`` returns, trying again for ``patience`` seconds while the API is away."""
    deadline = time.monotonic() + patience
    seconds = _FIRST_PAUSE
    while True:
        try:
            return call()
        except _PASSING as error:
            if time.monotonic() + seconds > deadline or not pause(seconds):
                raise
            log.event(logger, f"cannot {what}, trying again", level=logging.WARNING, error=str(error))
        seconds = min(2 * seconds, _LONGEST_PAUSE)
