"""Passing requests on to the API host, and its answers back, as they come (``PassThrough: true``).

Owns the way to the API host, and what it learns of who asked. Knows nothing of what the requests mean. Each exchange
has a connection of its own.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from arv_ssh.errors import BadRequest
from arv_ssh.net import tls
from arv_ssh.net.http_client import address_of, connect
from arv_ssh.net.http_messages import Request, StreamedResponse, Upgrade, origin_form
from arv_ssh.net.http_relay import Headers, pass_on, request_headers

STALL_TIMEOUT = 300.0
"""Seconds that an exchange may go without a byte: the RequestTimeout of stock Arvados."""


class PassThrough:
    """Passes requests on to the API at ``url``. ``verify`` is as for :class:`arv_ssh.api.client.ApiClient`."""

    def __init__(self, url: str, verify: bool | str) -> None:
        parts = urlsplit(url)
        context = tls.client_context(insecure=not verify, ca_file=verify if isinstance(verify, str) else None)
        self._netloc = parts.netloc
        self._prefix = parts.path.rstrip("/")
        self._address = address_of(url, context, name=f"the API host {parts.netloc}")

    async def handle(self, request: Request) -> StreamedResponse | Upgrade:
        """Pass one request on; return the head of the answer and the way to its body."""
        target = self._prefix + _path(request.target)
        headers = _request_headers(self._netloc, request)
        connection = await connect(self._address, stall=STALL_TIMEOUT)
        return await pass_on(connection, request, target, headers, stall=STALL_TIMEOUT)


def _path(target: bytes) -> str:
    path = origin_form(target.decode("latin-1"))
    if not path.startswith("/"):  # a URL of another scheme, whose host the API host would use
        raise BadRequest("the request's target is neither a path nor an http or https URL")
    return path


def _request_headers(netloc: str, request: Request) -> Headers:
    headers = request_headers(request, (b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-request-id"))
    forwarded = [value for name, value in request.raw_headers if name == b"x-forwarded-for"]
    return [
        (b"host", netloc.encode()),
        *headers,
        (b"x-forwarded-for", b", ".join([*forwarded, request.peer.encode()])),
        (b"x-forwarded-proto", b"https"),
        (b"x-request-id", request.request_id.encode()),
    ]
