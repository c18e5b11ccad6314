"""The controller's calls to the API on behalf of a request: as the user whose token came, and as root.

Owns the threads that wait for the API, and whose fault a failed call is. Does not know why a record is wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from arv_ssh.api.client import ApiClient
from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.errors import BadGateway, GatewayTimeout, HttpError, Unauthorized, Unavailable
from arv_ssh.trust import access

THREADS = 32
"""Calls to the API under way at once; each takes milliseconds, and a burst of requests waits its turn."""

T = TypeVar("T")


class ApiCalls:
    """Calls to ``api``, whose own token is not used. ``config`` may be replaced."""

    def __init__(self, config: ClusterConfig, api: ApiClient) -> None:
        self.config = config
        self._api = api
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="api")

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """Return what ``call`` returns, which may block: it runs in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)

    def as_user(self, token: str, request_id: str) -> ApiClient:
        """Return a client with a user's token."""
        return self._api.with_token(token, request_id)

    def as_root(self, request_id: str) -> ApiClient:
        """Return a client with the cluster's root token."""
        return self._api.with_token(self.config.system_root_token, request_id)

    def requests_of(self, container_uuid: str, request_id: str) -> list[dict[str, Any]]:
        """Return all requests that a container serves, seen as root: a user may not be able to read the others'.

        They have the attributes that :mod:`arv_ssh.trust.access` decides by.
        """
        try:
            return self.as_root(request_id).list_all(
                "container_requests",
                filters=[["container_uuid", "=", container_uuid]],
                select=access.request_attributes(embedded=self.config.api is None),
                most=access.MOST_REQUESTS,
            )
        except HttpError as error:
            raise as_roots(error, f"the API did not say whose container {container_uuid} is") from error

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def as_roots(error: HttpError, what: str) -> HttpError:
    """Return the failure of a call that the controller made for itself, which is never the user's fault."""
    if isinstance(error, Unauthorized):
        return BadGateway(f"{what}: it does not accept this controller's SystemRootToken; tell its administrator")
    kind = type(error) if isinstance(error, Unavailable | GatewayTimeout) else BadGateway
    return kind(f"{what}: {error}")
