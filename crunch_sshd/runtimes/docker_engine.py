"""The Docker SDK, imported here and nowhere else.

Owns the connection to the engine and the mapping of its errors to ours, once, at this boundary. Podman's
Docker-compatible socket is reached the same way (``DOCKER_HOST``).
"""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import docker
import docker.errors
import h11
import requests

from arv_ssh.errors import ArvSshError, BadGateway, NotFound, Unavailable

TIMEOUT = 60.0
"""Seconds for one answer from the engine; ``wait`` calls pass their own."""

GO_LINK = 1 << 27
GO_NOT_REGULAR = 1 << 31 | GO_LINK | 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19
"""Bits of a file's mode as the engine reports it (Go's io/fs.FileMode)."""

DockerClient = docker.DockerClient
"""The SDK's client, for annotations elsewhere."""


def connect(base_url: str | None = None) -> docker.DockerClient:
    """Connect to the engine at ``base_url``, else where ``DOCKER_HOST`` says, and check that it answers."""
    with engine_errors("the Docker engine"):
        if base_url:
            client = docker.DockerClient(base_url=base_url, timeout=int(TIMEOUT))
        else:
            client = docker.from_env(timeout=int(TIMEOUT))
        client.ping()
    return client


@contextmanager
def engine_errors(what: str) -> Iterator[None]:
    """Map the SDK's exceptions to ours; ``what`` names the thing that was being done or looked for."""
    try:
        yield
    except docker.errors.NotFound as error:
        raise NotFound(f"{what}: {error.explanation or error}") from error
    except docker.errors.APIError as error:
        # An error that an endpoint passes on: the engine's own words say more than "unexpected server error".
        raise BadGateway(f"{what}: the Docker engine says: {error.explanation or error}") from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise Unavailable(
            f"{what}: the Docker engine does not answer ({error.__class__.__name__}); "
            "is dockerd running, and may this user use it?"
        ) from error


def is_program(client: DockerClient, container: str, path: str) -> bool:
    """Say whether ``path``, followed through its links, is a file of the container that somebody may execute."""
    found = _stat(client, container, path)
    if found is not None and found["mode"] & GO_LINK:
        found = _stat(client, container, found["linkTarget"])  # which the engine has followed to its end
    return found is not None and not found["mode"] & GO_NOT_REGULAR and bool(found["mode"] & 0o111)


def path_exists(client: DockerClient, container: str, path: str) -> bool:
    """Say whether the container has something at ``path``, perhaps a link that leads nowhere."""
    return _stat(client, container, path) is not None


def _stat(client: DockerClient, container: str, path: str) -> dict[str, Any] | None:
    """Return what the engine says of a path, None where it finds nothing (API ``HEAD /containers/{id}/archive``).

    The SDK has no call for it: its ``get_archive`` would have the engine pack the file, and send it. For a loop of
    links, or a name that is too long, the engine answers 500: the container's own doing, and no failure of the engine.
    """
    with engine_errors(f"container {container}"):
        answer = client.api.head(_url(client, f"/containers/{container}/archive"), params={"path": path})
    if answer.status_code != 200:
        return None
    found: dict[str, Any] = json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))
    return found


def open_stream(client: DockerClient, path: str, body: dict[str, Any]) -> tuple[socket.socket, bytes]:
    """POST ``body`` and take over the connection (API "hijacking"); return it with the bytes that came early.

    Not ``exec_start(socket=True)`` of the SDK: it hands out the raw socket under a buffered reader, which keeps the
    early bytes to itself; and it cannot send Podman's ``h`` and ``w``.
    """
    connection = _dial(client)
    try:
        connection.settimeout(TIMEOUT)
        connection.sendall(_upgrade_request(_url(client, path), json.dumps(body).encode()))
        early = _upgraded(connection)
        connection.settimeout(None)
    except TimeoutError as error:
        connection.close()
        raise Unavailable(f"the Docker engine did not open a stream within {TIMEOUT:g} s; try again") from error
    except BaseException:
        connection.close()
        raise
    return connection, early


def _url(client: DockerClient, path: str) -> str:
    return f"{client.api.base_url}/v{client.api.api_version}{path}"


def _dial(client: DockerClient) -> socket.socket:
    adapter = client.api.get_adapter(client.api.base_url)
    path = getattr(adapter, "socket_path", None)
    if path is not None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(path)
        return connection
    address = urlsplit(client.api.base_url)
    plain = socket.create_connection((address.hostname or "", address.port or 2375))
    if address.scheme != "https":
        return plain
    raise ArvSshError("executing over a TLS connection to the Docker engine is not supported; use its unix socket")


def _upgrade_request(url: str, body: bytes) -> bytes:
    http = h11.Connection(h11.CLIENT)
    parts = urlsplit(url)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    headers = [
        ("Host", "docker"),
        ("Connection", "Upgrade"),
        ("Upgrade", "tcp"),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
    ]
    request = h11.Request(method="POST", target=target, headers=headers)
    return b"".join(http.send(part) or b"" for part in (request, h11.Data(data=body), h11.EndOfMessage()))


def _upgraded(connection: socket.socket) -> bytes:
    """Read the engine's answer: a 101 (or, from old engines, a 200 without a length) and what follows it."""
    try:
        return _read_upgrade(connection)
    except h11.RemoteProtocolError as error:
        raise ArvSshError(f"the Docker engine did not answer in HTTP, or not to the end ({error})") from error


def _read_upgrade(connection: socket.socket) -> bytes:
    http = h11.Connection(h11.CLIENT)
    headers = [("Host", "docker"), ("Upgrade", "tcp"), ("Content-Length", "0")]
    http.send(h11.Request(method="POST", target="/", headers=headers))
    http.send(h11.EndOfMessage())
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(connection.recv(65536))
        elif isinstance(event, h11.InformationalResponse) and event.status_code == 101:
            return bytes(http.trailing_data[0])
        elif isinstance(event, h11.Response):
            raise _refusal(http, connection, event.status_code)
        elif not isinstance(event, h11.InformationalResponse):
            raise ArvSshError("the Docker engine closed the connection instead of opening a stream")


def _refusal(http: h11.Connection, connection: socket.socket, status: int) -> ArvSshError:
    text = bytearray()
    while not isinstance(event := http.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
        if event is h11.NEED_DATA:
            http.receive_data(connection.recv(65536))
        elif isinstance(event, h11.Data):
            text += event.data
    try:
        reason = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        reason = f"status {status}"
    return ArvSshError(f"the Docker engine refused to open a stream: {reason}")
