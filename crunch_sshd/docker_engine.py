"""The Docker SDK, imported here and nowhere else.

Owns the connection to the engine and the mapping of its errors to ours, once, at this boundary. Podman's
Docker-compatible socket is reached the same way (``DOCKER_HOST``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import docker
import docker.errors
import requests

from arv_ssh.errors import ArvSshError, NotFound, Unavailable

TIMEOUT = 60.0
"""Seconds for one answer of the engine; ``wait`` calls pass their own."""

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
        raise ArvSshError(f"{what}: the Docker engine says: {error.explanation or error}") from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise Unavailable(
            f"{what}: the Docker engine does not answer ({error.__class__.__name__}); "
            "is dockerd running, and may this user use it?"
        ) from error
