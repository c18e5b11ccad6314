"""The way from :class:`arv_ssh.api.client.ApiClient` to an API in the same process: no socket, the same answers.

Owns the translation between ``requests`` and a plain function; knows neither the API's rules nor its database.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import BaseAdapter


class Answer(Protocol):
    """The function's answer: an HTTP status and a JSON body."""

    @property
    def status(self) -> int: ...

    @property
    def body(self) -> bytes: ...


Handle = Callable[[str, str, str, Mapping[str, str], bytes], Answer]
"""``handle(method, path, query, headers, body)``; the names of the headers are lower-case."""


class InProcessAdapter(BaseAdapter):
    """Answers the requests of a ``requests.Session`` with a function instead of a server."""

    def __init__(self, handle: Handle) -> None:
        super().__init__()
        self._handle = handle

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Answer one request; time-outs and certificates do not apply."""
        target = urlsplit(request.url or "")
        headers = {name.lower(): str(value) for name, value in request.headers.items()}
        body = request.body or b""
        answer = self._handle(
            request.method or "GET",
            unquote(target.path),
            target.query,
            headers,
            body.encode() if isinstance(body, str) else body,
        )
        return _response(request, answer)

    def close(self) -> None:
        """Do nothing: there is no connection."""


def _response(request: requests.PreparedRequest, answer: Answer) -> requests.Response:
    response = requests.Response()
    response.status_code = answer.status
    response.reason = HTTPStatus(answer.status).phrase
    response.headers["Content-Type"] = "application/json"
    response.encoding = "utf-8"
    response.url = request.url or ""
    response.request = request
    response.raw = io.BytesIO(answer.body)
    return response
