"""A double of stock ``arvados-client logs [-f] CONTAINER_REQUEST``: its requests, in their order, and what it prints.

It reads crunch-run.txt and stderr.txt. A file's size it learns from the answer to ``Range: bytes=-0``, and it believes
only an answer with a Content-Range; 404 is a file that is not there yet.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
from collections.abc import Callable
from urllib.parse import urlencode

FILES = ("crunch-run.txt", "stderr.txt")
FIRST = 10_000
"""Bytes of a file's end that are shown at first."""
_CONTENT_RANGE = re.compile(r"bytes (-?\d+)-(-?\d+)/(-?\d+)")


class StockLogs:
    """Reads the log of container request ``uuid`` from the API at ``address``; ``asked`` are its requests.

    ``lines`` is what it prints to stdout, ``said`` what to stderr. ``pause`` comes between two polls.
    """

    def __init__(
        self, address: str, context: ssl.SSLContext, token: str, uuid: str,
        pause: Callable[[], None] = lambda: time.sleep(0.2),
    ) -> None:  # fmt: skip
        self._connection = http.client.HTTPSConnection(address, context=context)
        self._token = token
        self._uuid = uuid
        self._pause = pause
        self.asked: list[tuple[str, str, str]] = []
        self.lines: list[str] = []
        self.said: list[str] = []

    def run(self, *, follow: bool) -> int:
        """Print the log, with ``follow`` until the container request is Final; return the exit status."""
        try:
            return self._run(follow)
        except (ValueError, OSError) as error:
            self.said.append(str(error))
            return 1
        finally:
            self._connection.close()

    def _run(self, follow: bool) -> int:
        status, headers, _ = self._ask("OPTIONS", f"/arvados/v1/container_requests/{self._uuid}/log")
        if status == 200 and not headers.get("Dav"):
            raise ValueError("server does not support container logs API")
        request = self._request()
        shown: dict[str, int] = {}
        while True:
            if not request["container_uuid"]:
                raise ValueError(f"{self._uuid} has no assigned container (state is {request['state']})")
            sizes = {name: self._read(request["container_uuid"], name, "-0")[0] for name in FILES}
            if not shown:
                self.said.append(f"connected, polling for log data from container {request['container_uuid']}")
            self._show(request["container_uuid"], sizes, shown)
            if request["state"] == "Final" or not follow:
                return 0
            self._pause()
            request = self._request()

    def _show(self, container: str, sizes: dict[str, int], shown: dict[str, int]) -> None:
        found: list[str] = []
        for name, size in sizes.items():
            start = shown.setdefault(name, max(0, size - FIRST))
            if size > start:
                _, data = self._read(container, name, f"{start}-")
                shown[name] += len(data)
                found += [f"{name:<14} {line}" for line in data.decode().removesuffix("\n").split("\n")]
        self.lines += sorted(found, key=lambda line: line[15:])

    def _request(self) -> dict[str, str]:
        # Every option of the call goes along, also those that are not set.
        select = json.dumps(["uuid", "container_uuid", "state"])
        options = {"bypass_federation": "false", "forward_to": "", "include_trash": "false", "no_forward": "false"}
        query = urlencode(options | {"select": select, "uuid": self._uuid})
        status, _, body = self._ask("GET", f"/arvados/v1/container_requests/{self._uuid}?{query}")
        if status != 200:
            raise ValueError(f"error retrieving {self._uuid}: {body.decode()}")
        answer: dict[str, str] = json.loads(body)
        return answer

    def _read(self, container: str, name: str, part: str) -> tuple[int, bytes]:
        """Return a file's size, and its bytes in ``part``."""
        path = f"/arvados/v1/container_requests/{self._uuid}/log/{container}/{name}"
        status, headers, body = self._ask("GET", path, part)
        if status == 404:
            return 0, b""
        if status not in (200, 206):
            raise ValueError(f"error getting {name}: HTTP {status} -- {body.decode()}")
        found = _CONTENT_RANGE.match(headers.get("Content-Range", ""))
        if found is None:
            raise ValueError(f"error parsing Content-Range header {headers.get('Content-Range')!r}")
        return int(found[3]), body

    def _ask(self, method: str, path: str, part: str = "") -> tuple[int, http.client.HTTPMessage, bytes]:
        self.asked.append((method, path.partition("?")[0], part))
        headers = {"Authorization": f"Bearer {self._token}"} | ({"Range": f"bytes={part}"} if part else {})
        self._connection.request(method, path, headers=headers)
        answer = self._connection.getresponse()
        return answer.status, answer.headers, answer.read()
