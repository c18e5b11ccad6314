"""Which runtime a gateway uses for a container: the fastest one that works here, or the one that was asked for."""

from __future__ import annotations

from arv_ssh.errors import ConfigError
from crunch_sshd.runtimes import Runtime, oci
from crunch_sshd.runtimes.docker import DockerRuntime
from crunch_sshd.runtimes.docker_engine import DockerClient, engine_errors

KINDS = ("auto", "docker", "oci")
"""``auto`` is ``oci`` where the gateway is root on the container's host and finds its state there, else ``docker``."""


def choose(kind: str, client: DockerClient, container_id: str, name: str) -> Runtime:
    """Return the runtime of the engine's container ``container_id``, which users know as ``name``.

    Raises :class:`ConfigError` when ``oci`` was asked for and cannot be used.
    """
    if kind != "docker":
        with engine_errors(f"container {name}"):
            full_id = client.api.inspect_container(container_id)["Id"]
        found = oci.find(full_id, name)
        if found is not None:
            return found
        if kind == "oci":
            raise ConfigError(
                f"the runtime oci cannot be used for container {name}: it needs root on the container's host and runc "
                "or crun with its state in /run; use --runtime docker"
            )
    return DockerRuntime(client, container_id, name)
