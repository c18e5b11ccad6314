"""One Docker container of one Arvados container: create, start, copy its output, wait, stop, remove.

Owns the Docker name and label by which a leftover is found again, and the init that a container gets: a first process
that starts the program, and reaps the orphans of sessions, which most programs would leave as zombies. Knows nothing of
the API, of the gateway, or of why a container is stopped. Every method blocks and raises
:class:`arv_ssh.errors.ArvSshError`.
"""

from __future__ import annotations

import io
import logging
import posixpath
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

from arv_ssh import log
from arv_ssh.errors import ArvSshError, NotFound, Unprocessable
from crunch_sshd.run.container_options import ContainerOptions
from crunch_sshd.run.container_output import ContainerOutput
from crunch_sshd.runtimes.docker_engine import DockerClient, engine_errors, open_stream, path_exists

logger = logging.getLogger(__name__)

LABEL = "arv-ssh.container-uuid"
"""On every Docker container made here; only containers that carry it are ever removed."""

STOP_GRACE = 2
"""Seconds between SIGTERM and SIGKILL, as between the signals that end a session."""

DRAIN_TIMEOUT = 10.0
"""Seconds for the last output to reach the disk after the container has ended; later output counts as lost."""


DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The PATH that engines give a container whose image has none."""
INITS = ("docker-init", "container-init", "catatonit")
"""Programs whose names an engine's error has when it cannot find its init: those of Docker, and two of Podman."""


class Container:
    """A Docker container named after its Arvados UUID. ``with_init``: its first process is the engine's init."""

    def __init__(
        self, client: DockerClient, uuid: str, options: ContainerOptions, docker_id: str, with_init: bool
    ) -> None:
        self._client = client
        self._uuid = uuid
        self._options = options
        self._output: ContainerOutput | None = None
        self.docker_id = docker_id
        self.with_init = with_init

    @classmethod
    def create(cls, client: DockerClient, uuid: str, options: ContainerOptions, with_init: bool = False) -> Container:
        """Create the container without starting it, after removing any leftover of an earlier attempt.

        An engine without an init makes a container without one, and the log says so.
        """
        clean_up(client, uuid)
        try:
            return cls._create(client, uuid, options, with_init)
        except ArvSshError as error:
            if not with_init or not _is_about_init(error):
                raise
            _log_no_init(uuid, error)
            return cls._create(client, uuid, options, with_init=False)

    @classmethod
    def _create(cls, client: DockerClient, uuid: str, options: ContainerOptions, with_init: bool) -> Container:
        try:
            with engine_errors(f"cannot create container {uuid} from image {options.image}"):
                created = client.api.create_container(
                    options.image,
                    list(options.command) or None,
                    name=uuid,
                    hostname=uuid,
                    labels={LABEL: uuid},
                    environment=dict(options.environment),
                    working_dir=options.directory,
                    user=options.user or None,
                    host_config=_host_config(options, with_init),
                )
        except NotFound as error:
            raise Unprocessable(
                f"the image {options.image} of container {uuid} does not exist on this machine's Docker engine; "
                "pull or build it there, then submit the container request again"
            ) from error
        container = cls(client, uuid, options, created["Id"], with_init)
        try:
            container._open_scratch(options.scratch)
        except ArvSshError:
            container.remove()
            raise
        return container

    def _open_scratch(self, targets: Iterable[str]) -> None:
        """Make the tmp mounts writable for every user: a fresh volume belongs to root."""
        for target in targets:
            with engine_errors(f"cannot prepare the tmp mount {target} of container {self._uuid}"):
                self._client.api.put_archive(self.docker_id, "/", _sticky_directory(target))

    def start(self, stdout: BinaryIO, stderr: BinaryIO) -> None:
        """Start the container and copy its output to the two files from a thread of its own, from the first byte on."""
        if self.with_init:
            self._check_program()
        try:
            self._start(stdout, stderr)
        except ArvSshError as error:
            if not self.with_init or not _is_about_init(error):
                raise
            _log_no_init(self._uuid, error)
            self.remove()
            other = self._create(self._client, self._uuid, self._options, with_init=False)
            self.docker_id, self.with_init = other.docker_id, False
            self._start(stdout, stderr)

    def _start(self, stdout: BinaryIO, stderr: BinaryIO) -> None:
        with engine_errors(f"cannot start container {self._uuid}"):
            path = f"/containers/{self.docker_id}/attach?stream=1&stdout=1&stderr=1"
            self._output = ContainerOutput(*open_stream(self._client, path, {}), stdout, stderr)
            self._client.api.start(self.docker_id)

    def _check_program(self) -> None:
        """Raise :class:`Unprocessable` for a program that is not there: with an init, the engine would not notice."""
        with engine_errors(f"cannot start container {self._uuid}"):
            facts = self._client.api.inspect_container(self.docker_id)
        program = str(facts["Path"])
        if not any(path_exists(self._client, self.docker_id, place) for place in _places(program, facts["Config"])):
            why = "no such file or directory" if "/" in program else "executable file not found in $PATH"
            raise Unprocessable(f"cannot start container {self._uuid}: exec: {program!r}: {why}")

    def wait(self) -> int:
        """Block until the container has ended and its output is written; return its exit status.

        Afterwards :attr:`lost_output` says whether all of it could be written.
        """
        with engine_errors(f"lost container {self._uuid} while it ran"):
            status = int(self._client.api.wait(self.docker_id, timeout=None)["StatusCode"])
        if self._output:
            self._output.finish(DRAIN_TIMEOUT)
        return status

    @property
    def lost_output(self) -> str:
        """Why some of the container's output is lost, "" if all was kept. Known once :meth:`wait` has returned."""
        return self._output.failure if self._output else ""

    def is_running(self) -> bool:
        """Say whether the container is running; False if it is gone."""
        try:
            with engine_errors(f"cannot look at container {self._uuid}"):
                return bool(self._client.api.inspect_container(self.docker_id)["State"]["Running"])
        except NotFound:
            return False

    def ends_within(self, seconds: float) -> bool:
        """Say whether the container has ended, or does so soon."""
        deadline = time.monotonic() + seconds
        while self.is_running():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def watch_for_kill(self, since: int, told: Callable[[], Any]) -> None:
        """Call ``told``, from a thread of its own, if anybody has the engine signal or stop the container.

        That counts from ``since`` on, in seconds since the epoch (Docker API ``events``).
        """
        filters = {"container": self.docker_id, "event": "kill"}

        def watch() -> None:
            try:
                with engine_errors(f"cannot watch container {self._uuid}"):
                    next(iter(self._client.api.events(since=since, filters=filters, decode=True)))
                told()
            except (ArvSshError, StopIteration) as error:
                log.event(logger, "who stops the container is not watched any more", level=logging.WARNING,
                          container_uuid=self._uuid, error=str(error))  # fmt: skip

        threading.Thread(target=watch, name="kill-watch", daemon=True).start()

    def stop(self) -> None:
        """End the container's processes: SIGTERM, then SIGKILL after the grace; does nothing if it has ended."""
        try:
            with engine_errors(f"cannot stop container {self._uuid}"):
                self._client.api.stop(self.docker_id, timeout=STOP_GRACE)
        except NotFound:
            log.event(logger, "the Docker container is gone already", container_uuid=self._uuid)

    def remove(self) -> None:
        """Remove the container and its tmp mounts, killing anything still running; does nothing if it is gone."""
        _remove(self._client, self.docker_id, self._uuid)
        if self._output:
            self._output.close()


def clean_up(client: DockerClient, uuid: str) -> bool:
    """Remove anything an earlier crunch-run left of container ``uuid``; say whether there was anything."""
    try:
        with engine_errors(f"cannot look for leftovers of container {uuid}"):
            found = client.api.inspect_container(uuid)
    except NotFound:
        return False
    if (found["Config"].get("Labels") or {}).get(LABEL) != uuid:
        raise ArvSshError(f"a Docker container named {uuid} exists that crunch-run did not make; rename or remove it")
    _remove(client, found["Id"], uuid)
    return True


def _remove(client: DockerClient, docker_id: str, uuid: str) -> None:
    try:
        with engine_errors(f"cannot remove container {uuid}"):
            client.api.remove_container(docker_id, force=True, v=True)
    except NotFound:
        log.event(logger, "the Docker container is gone already", container_uuid=uuid)


def _is_about_init(error: ArvSshError) -> bool:
    return any(name in str(error) for name in INITS)


def _log_no_init(uuid: str, error: ArvSshError) -> None:
    log.event(logger, "the engine has no init; orphans of sessions stay as zombies", level=logging.WARNING,
              container_uuid=uuid, error=str(error))  # fmt: skip


def _places(program: str, config: Mapping[str, Any]) -> list[str]:
    """Return the paths where the engine looks for a program (execvp(3)), from a container's Config."""
    directory = config.get("WorkingDir") or "/"
    if "/" in program:
        return [posixpath.join(directory, program)]
    environment = dict(word.partition("=")[::2] for word in config.get("Env") or ())
    return [posixpath.join(directory, place, program) for place in environment.get("PATH", DEFAULT_PATH).split(":")]


def _host_config(options: ContainerOptions, with_init: bool) -> dict[str, Any]:
    """Return the Docker API's HostConfig. A volume without a name is removed together with its container."""
    mounts: list[dict[str, Any]] = [{"Type": "volume", "Target": target} for target in options.scratch]
    mounts += [
        {"Type": "bind", "Source": bind.source, "Target": bind.target, "ReadOnly": not bind.writable}
        for bind in options.binds
    ]
    return {
        "Mounts": mounts,
        "Memory": options.memory,
        "NanoCpus": int(options.cpus * 1_000_000_000),
        # The output is read by attaching; the engine needs to keep no second copy.
        "LogConfig": {"Type": "none"},
        "Init": with_init,
    }


def _sticky_directory(path: str) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(path.strip("/"))
        entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o1777, int(time.time())
        tar.addfile(entry)
    return archive.getvalue()
