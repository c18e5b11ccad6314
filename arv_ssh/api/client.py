"""The Arvados API as a client: records over HTTPS, or from the embedded API inside the same process.

Owns the way from a call to a record, which calls are tried again, and the way from any failure to one of
:mod:`arv_ssh.errors`; the sentences are :mod:`arv_ssh.api.failures`'s. Blocking; callers with an event loop use a
thread. Knows nothing of a record's meaning.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter

from arv_ssh import uuids
from arv_ssh.api import failures
from arv_ssh.errors import BadGateway, ConfigError, GatewayTimeout, NotFound, Unauthorized, Unavailable

Record = dict[str, Any]
Records = list[Record]
Filters = list[list[Any]]
Names = list[str]

LONGEST_QUERY = 4000
"""Bytes of a query string; a longer one goes into the body of a POST with _method=GET, as Arvados' own clients do."""
PAGE = 1000
"""Records asked for at once; Arvados' own limit is the same."""
RETRY_PAUSES = (0.3, 1.0)
"""Seconds before the second and the third attempt, give or take half; a controller that restarts is back by then."""
RETRY_STATUSES = frozenset({502, 503, 504})
"""Statuses from a server that could not reach, or not yet serve, the thing asked for. All others are real answers."""
LARGEST_ANSWER = 128 * 1024 * 1024
"""Bytes of an answer; Arvados itself reads no more of its database for one (max_index_database_read)."""
PIECE = 64 * 1024
"""Bytes of it read at once."""
CONNECTIONS = 32
"""Connections kept open to the API host: as many as threads of a controller that ask it."""


@dataclass(frozen=True)
class _Answer:
    """An answer's status and body."""

    status: int
    body: bytes


class ApiClient:
    """One token's view of the API at ``base_url``. Thread-safe.

    ``verify`` is False, True (the system's CAs) or the path of a CA file; ``adapter`` takes the place of the network;
    ``timeout`` is in seconds, for the connection and for each wait for bytes.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        verify: bool | str = True,
        adapter: BaseAdapter | None = None,
        timeout: float = 30.0,
    ) -> None:
        if isinstance(verify, str) and not os.path.exists(verify):
            raise ConfigError(f"the CA file {verify} does not exist; set SSL_CERT_FILE to one that does, or unset it")
        if verify is False:  # callers who asked for it need no reminder with every call
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._base_url = base_url.rstrip("/")
        self._host = urlsplit(self._base_url).netloc
        self._token = token
        self._request_id = ""
        self._verify = verify
        self._timeout = timeout
        # An API in this process has no network to fail, and waits for its database itself.
        self._retry_pauses = RETRY_PAUSES if adapter is None else ()
        self._session = _session(adapter)

    def with_token(self, token: str, request_id: str = "") -> ApiClient:
        """Return a client with another token over the same connections; its calls carry the request's id."""
        other = object.__new__(ApiClient)
        other.__dict__.update(self.__dict__, _token=token, _request_id=request_id)
        return other

    def close(self) -> None:
        """Close the connections, those of clients made by :meth:`with_token` too."""
        self._session.close()

    def current_user(self) -> Record:
        """Return the user whose token this is."""
        return self._call("GET", "users/current")

    def get(self, resource: str, uuid: str, *, select: Names | None = None) -> Record:
        """Return one record of ``resource`` ("containers", "container_requests", …)."""
        return self._call("GET", _path(resource, uuid), _present(select=select))

    def list(
        self,
        resource: str,
        *,
        filters: Filters | None = None,
        select: Names | None = None,
        order: Names | None = None,
        limit: int | None = None,
        offset: int | None = None,
        count: str | None = None,
    ) -> Record:
        """Return a page of records: ``items``, ``items_available`` (unless count is "none"), ``limit``, ``offset``."""
        parameters = _present(filters=filters, select=select, order=order, limit=limit, offset=offset, count=count)
        return self._call("GET", resource, parameters)

    def list_all(
        self, resource: str, *, filters: Filters | None = None, select: Names | None = None, most: int | None = None
    ) -> Records:
        """Return all records that fit, in the order of their UUIDs, however many pages that takes.

        With ``most`` no further page is asked for once there are more than so many. Raises :class:`BadGateway` for
        pages that are none, or that come again and again.
        """
        if select is not None and "uuid" not in select:
            select = [*select, "uuid"]
        found: Records = []
        after: Filters = []
        while most is None or len(found) <= most:
            page = self.list(
                resource, filters=[*(filters or []), *after], select=select, order=["uuid"], limit=PAGE, count="none"
            ).get("items")
            if not _are_records(page) or (page and found and page[-1]["uuid"] == found[-1]["uuid"]):
                raise BadGateway(f"the API host {self._host} answered with something other than a list of {resource}")
            if not page:
                break
            found += page
            after = [["uuid", ">", page[-1]["uuid"]]]
        return found

    def create(self, resource: str, attributes: Record) -> Record:
        """Make a record and return it."""
        return self._call("POST", resource, body={_singular(resource): attributes})

    def update(self, resource: str, uuid: str, attributes: Record, *, repeatable: bool = False) -> Record:
        """Change a record's attributes and return it; ``repeatable`` when doing it twice is as good as once."""
        body = {_singular(resource): attributes}
        return self._call("PATCH", _path(resource, uuid), body=body, repeatable=repeatable)

    def delete(self, resource: str, uuid: str) -> Record:
        """Delete a record and return it as it was."""
        return self._call("DELETE", _path(resource, uuid))

    def lock(self, uuid: str) -> Record:
        """Lock a Queued container for this token."""
        return self._call("POST", f"{_path('containers', uuid)}/lock")

    def unlock(self, uuid: str) -> Record:
        """Give a Locked container back to the queue."""
        return self._call("POST", f"{_path('containers', uuid)}/unlock")

    def shell_sessions(self) -> Record:
        """Return the cluster's open sessions: ``items``, and ``missing``, sentences about controllers not asked."""
        return self._call("GET", "shell_sessions")

    def kill_shell_session(self, session_id: str, reason: str) -> Record:
        """End an open session, whose user reads ``reason``; return it as it was."""
        return self._call("POST", f"shell_sessions/{quote(session_id, safe='')}/kill", body={"reason": reason})

    def container_changes(self) -> Iterator[None]:
        """Yield whenever containers may have changed in a way that concerns dispatchers; the first time at once.

        Ends when the API stops telling. Raises :class:`NotFound` where it never does, as Arvados' own.
        """
        with self._exchange("GET", f"{self._base_url}/arvados/v1/containers/changes", self._headers()) as response:
            if response.status_code != 200:
                self._read("containers/changes", _Answer(response.status_code, self._body(response)))
                return
            try:
                for line in response.iter_lines(chunk_size=None):
                    if line:
                        yield
            except requests.exceptions.RequestException as error:
                raise Unavailable(f"the API host {self._host} stopped telling ({_root_cause(error)})") from error

    def container_auth(self, uuid: str) -> Record:
        """Return the token, with its ``api_token``, of a container that this client's token has locked."""
        return self._call("GET", f"{_path('containers', uuid)}/auth")

    def _call(
        self,
        method: str,
        path: str,
        parameters: dict[str, str] | None = None,
        *,
        body: Record | None = None,
        repeatable: bool = False,
    ) -> Record:
        headers = self._headers()
        repeatable = repeatable or method == "GET"
        url, data = f"{self._base_url}/arvados/v1/{path}", None
        query = urlencode(parameters or {})
        if len(query) > LONGEST_QUERY:
            method, data = "POST", f"_method=GET&{query}"
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        elif query:
            url = f"{url}?{query}"
        send = partial(self._send, method, url, headers, data, body)
        return self._read(path, self._with_retries(send) if repeatable else send())

    def _headers(self) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {_sendable(self._token)}", "Accept": "application/json"}
        return headers | ({"X-Request-Id": self._request_id} if self._request_id else {})

    def _with_retries(self, send: Callable[[], _Answer]) -> _Answer:
        """Send until there is an answer, a few times at most. A time-out is not retried: a caller is waiting."""
        for pause in self._retry_pauses:
            try:
                response = send()
            except Unavailable:
                pass  # refused, or cut
            else:
                if response.status not in RETRY_STATUSES:
                    return response
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - so that many do not come back at once
        return send()

    def _send(
        self, method: str, url: str, headers: dict[str, str], data: str | None, body: Record | None
    ) -> _Answer:
        with self._exchange(method, url, headers, data, body) as response:
            return _Answer(response.status_code, self._body(response))

    @contextmanager
    def _exchange(
        self, method: str, url: str, headers: dict[str, str], data: str | None = None, body: Record | None = None
    ) -> Iterator[requests.Response]:
        """Yield the head of an answer, whose body is still to be read."""
        try:
            # A redirect would carry the token to wherever it leads.
            with self._session.request(
                method, url, headers=headers, data=data, json=body, timeout=self._timeout, verify=self._verify,
                allow_redirects=False, stream=True,
            ) as response:  # fmt: skip
                yield response
        except requests.exceptions.SSLError as error:
            raise BadGateway(
                f"the TLS certificate of the API host {self._host} is not trusted ({_root_cause(error)}); set "
                "SSL_CERT_FILE to its CA"
            ) from error
        except requests.exceptions.Timeout as error:
            raise GatewayTimeout(f"the API host {self._host} did not answer within {self._timeout:g} s") from error
        except requests.exceptions.ConnectionError as error:
            raise Unavailable(f"the API host {self._host} cannot be reached ({_root_cause(error)})") from error
        except requests.exceptions.RequestException as error:
            raise BadGateway(f"the API host {self._host} answered with invalid HTTP ({_root_cause(error)})") from error

    def _body(self, response: requests.Response) -> bytes:
        body = bytearray()
        for piece in response.iter_content(PIECE):
            body += piece
            if len(body) > LARGEST_ANSWER:
                raise BadGateway(f"the API host {self._host} answered with more than {LARGEST_ANSWER >> 20} MiB")
        return bytes(body)

    def _read(self, path: str, response: _Answer) -> Record:
        try:
            answer = json.loads(response.body)
        except (ValueError, RecursionError):
            answer = None
        if response.status >= 300:
            raise failures.error(self._host, path, response.status, answer)
        if not isinstance(answer, dict):
            raise BadGateway(f"the API host {self._host} answered with something other than a JSON record")
        return answer


def _session(adapter: BaseAdapter | None) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # a ~/.netrc must not take the token's place
    # Several users' calls share one session: a cookie sent to one must not come back with another's call.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("https://", "http://"):
        session.mount(scheme, adapter or HTTPAdapter(pool_maxsize=CONNECTIONS))
    return session


def _are_records(page: Any) -> bool:
    return isinstance(page, list) and all(isinstance(one, dict) and isinstance(one.get("uuid"), str) for one in page)


def _singular(resource: str) -> str:
    return resource.removesuffix("s")


def _path(resource: str, uuid: str) -> str:
    current = uuid == "current" and resource in ("users", "api_client_authorizations")
    if uuids.kind(uuid) is None and not current:  # so that no other text, such as "..", makes another path
        name = _singular(resource).replace("_", " ")
        raise NotFound(f"{name} {uuid[:40]!r} was not found: that is not a UUID such as zzzzz-dz642-abcdeabcdeabcde")
    return f"{resource}/{uuid}"


def _present(**parameters: Any) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in parameters.items()
        if value is not None
    }


def _sendable(token: str) -> str:
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise Unauthorized("the API token contains an invalid character; copy it again")
    return token


def _root_cause(error: BaseException) -> str:
    """Return the innermost reason: exceptions from requests are a stack of wrappers."""
    inner: Any = error
    while True:
        following = getattr(inner, "reason", None) if not isinstance(inner, OSError) or inner is error else None
        if not isinstance(following, BaseException):
            following = next((part for part in inner.args if isinstance(part, BaseException)), None)
        if following is None:
            return str(getattr(inner, "strerror", None) or getattr(inner, "verify_message", None) or inner)
        inner = following
