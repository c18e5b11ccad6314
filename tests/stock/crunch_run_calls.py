"""A double of a stock crunch-run's calls to the API, in their order and form; it runs nothing.

Stock sends what belongs to a GET in the query, and anything else as a form whose fields are JSON. Every update asks for
the ``uuid`` alone. The container's own token is sent with the container's UUID after it.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

UPDATED = ["uuid"]
Fields = dict[str, Any]


class ApiError(Exception):
    """An answer that stock gives up on: its status and its body."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status


class Api:
    """The API at ``address`` with one token, as stock's client library calls it."""

    def __init__(self, address: str, context: ssl.SSLContext, token: str) -> None:
        self._address = address
        self._context = context
        self._token = token

    def with_token(self, token: str) -> Api:
        """Return the same API with another token."""
        return Api(self._address, self._context, token)

    def call(self, method: str, path: str, **parameters: Any) -> Any:
        """Call the API; text is sent as it is, other values as JSON."""
        form = urlencode({name: value if isinstance(value, str) else json.dumps(value)
                          for name, value in parameters.items()})  # fmt: skip
        in_query = method == "GET"
        headers = {"Authorization": f"OAuth2 {self._token}"}
        if not in_query:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection = http.client.HTTPSConnection(self._address, context=self._context)
        try:
            target = f"{path}?{form}" if in_query and form else path
            connection.request(method, target, None if in_query else form, headers)
            answer = connection.getresponse()
            body = answer.read().decode()
        finally:
            connection.close()
        if answer.status not in (200, 204):
            raise ApiError(answer.status, body)
        return json.loads(body)


class StockRun:
    """One attempt to run ``uuid``, which the dispatcher's token in ``api`` has locked.

    ``address`` is the gateway's. Each method is one of stock's steps.
    """

    def __init__(self, api: Api, uuid: str, address: str) -> None:
        self._api = api
        self._own = api
        self._uuid = uuid
        self._address = address
        self._log_uuid = ""
        self._log_hash = ""
        self.container: Fields = {}

    def _path(self, rest: str = "") -> str:
        return f"/arvados/v1/containers/{self._uuid}{rest}"

    def _update(self, **attributes: Any) -> None:
        self._api.call("PUT", self._path(), select=UPDATED, container=attributes)

    def start(self) -> None:
        """Learn what to run: the API's document, the record, the own token, the secrets, the keepstores."""
        discovered = self._api.call("GET", "/discovery/v1/apis/arvados/v1/rest")
        assert discovered["blobSignatureTtl"] and discovered["defaultCollectionReplication"]
        self._api.call("GET", self._path(), select=["runtime_constraints"])
        self.container = self._api.call("GET", self._path())
        auth = self._api.call("GET", self._path("/auth"))
        self._own = self._api.with_token(f"v2/{auth['uuid']}/{auth['api_token']}/{self._uuid}")
        try:
            secrets = self._own.call("GET", self._path("/secret_mounts"))
            assert secrets["secret_mounts"] == {}
        except ApiError as error:
            if error.status != 404:
                raise
        self._own.call("GET", "/arvados/v1/keep_services/accessible")
        listed = self._api.call("GET", "/arvados/v1/containers", filters=[["uuid", "=", self._uuid]])
        assert listed["items"][0]["uuid"] == self._uuid

    def mount(self) -> None:
        """Ask what arv-mount asks, with the container's own token."""
        assert self._own.call("GET", "/arvados/v1/config")["ClusterID"] == self._uuid[:5]
        assert self._own.call("GET", "/arvados/v1/users/current")["uuid"]
        assert self._own.call("GET", "/arvados/v1/api_client_authorizations/current")["uuid"]

    def save_log(self, manifest: str, *, final: bool = False) -> None:
        """Save the log so far; the record is told of it later, or with the end."""
        expires = (datetime.now(UTC) + timedelta(days=14)).isoformat()
        attributes: Fields = {"name": f"logs for {self._uuid}", "manifest_text": manifest}
        attributes |= {"is_trashed": True} if final else {"trash_at": expires, "delete_at": expires}
        call: Callable[..., Any] = self._api.call
        saved_as = ["uuid", "portable_data_hash"]
        if self._log_uuid:
            saved = call("PUT", f"/arvados/v1/collections/{self._log_uuid}", select=saved_as, collection=attributes)
        else:
            saved = call("POST", "/arvados/v1/collections", select=saved_as, collection=attributes,
                         ensure_unique_name=True)  # fmt: skip
        self._log_uuid, self._log_hash = saved["uuid"], saved["portable_data_hash"]

    def running(self) -> None:
        """Say that the container is about to start."""
        self._update(gateway_address=self._address, state="Running", log=self._log_hash)

    def report(self, **attributes: Any) -> None:
        """Say what has happened meanwhile."""
        self._update(**attributes)

    def report_log(self, manifest: str) -> None:
        """Save the log so far and say so."""
        self.save_log(manifest)
        self._update(log=self._log_hash)

    def save_output(self, manifest: str) -> str:
        """Save the output with the container's own token; return its hash."""
        made = self._own.call(
            "POST", "/arvados/v1/collections", ensure_unique_name=True, select=["portable_data_hash"],
            collection={"is_trashed": True, "name": f"output for {self._uuid}", "manifest_text": manifest},
        )  # fmt: skip
        return str(made["portable_data_hash"])

    def end(self, state: str, log: str, exit_code: int | None, output: str = "") -> None:
        """Save the log as it is at the end, and say how the container ended."""
        self.save_log(log, final=True)
        update: Fields = {"state": state, "log": self._log_hash, "exit_code": exit_code, "cost": 0.25}
        self._update(**(update | ({"output": output} if output else {})))
