"""What a gateway serves besides SSH: the container's log directory, and HTTP to the container's ports.

Owns the interface between the endpoint, which has checked whose request it is, and those who answer: a gateway that
serves both itself, or one that relays them to the gateway of a stock crunch-run. Knows neither.
"""

from __future__ import annotations

from typing import Protocol

from arv_ssh.errors import NotFound
from arv_ssh.net.http_messages import Answer, Request


class Services(Protocol):
    """The services of one gateway, each for requests that a controller has proven. Event loop.

    Bodies are streamed (:meth:`Request.pieces`), and ``raw_headers`` still have those meant for the gateway. HttpErrors
    raised become answers. The endpoint adds its own proof to all of them.
    """

    async def log(self, request: Request) -> Answer:
        """Answer a WebDAV request for the log directory, whatever its method; its path is ``request.path``."""

    async def port(self, request: Request, port: int) -> Answer:
        """Answer an HTTP request for ``port`` (1 to 65535) of the container."""


class Unserved:
    """The services of a gateway for SSH alone."""

    async def log(self, request: Request) -> Answer:
        """Refuse: there is no log directory."""
        raise NotFound("this gateway has no log directory; whoever runs the container has the logs")

    async def port(self, request: Request, port: int) -> Answer:
        """Refuse: there is no way to the ports."""
        raise NotFound("this gateway does not serve ports of the container; use ssh -L")
