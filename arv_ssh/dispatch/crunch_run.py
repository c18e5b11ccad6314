"""Starting ``crunch-run`` for one container.

Owns the child's command line, environment, descriptors and log file. The container's secret goes through a pipe
(``fd:N``), so no argument list and no environment ever shows it; the API token is the container's own. Decides nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from arv_ssh.audit.options import Auditing
from arv_ssh.config.cluster_config import GATEWAY_MEMORY, ForwardingOptions
from arv_ssh.config.session_options import SessionOptions
from arv_ssh.errors import ArvSshError, ConfigError
from arv_ssh.processes.process_lock import ProcessLock
from arv_ssh.trust import credentials

_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "SSL_CERT_FILE")
"""The part of the dispatcher's own environment that crunch-run sees."""


@dataclass(frozen=True)
class CrunchRun:
    """How to start it. ``log_dir`` gets one directory a container: crunch-run.txt, stdout.txt, stderr.txt.

    ``gateway_tunnel`` is the controller to open a tunnel to, "" where gateways can be dialled; ``hold_on_failure`` is
    in seconds.
    """

    program: Path
    system_root_token: str = field(repr=False)
    api_host: str
    api_insecure: bool
    log_dir: Path
    forwarding: ForwardingOptions = ForwardingOptions()
    sessions: SessionOptions = field(default_factory=SessionOptions)
    auditing: Auditing = Auditing()
    gateway_tunnel: str = ""
    gateway_memory: int = GATEWAY_MEMORY
    hold_on_failure: float = 0.0
    container_init: bool = True

    def check(self) -> None:
        """Raise :class:`ConfigError` when the program cannot be executed."""
        if not os.access(self.program, os.X_OK):
            raise ConfigError(f"cannot execute {self.program}; name the crunch-run program with --crunch-run")

    def start(self, lock: ProcessLock, uuid: str, token: str) -> subprocess.Popen[bytes]:
        """Start crunch-run for a container that is locked for us; it survives this process and holds ``lock``."""
        secret = credentials.container_secret(self.system_root_token, uuid)
        reader, writer = os.pipe()
        with open(writer, "wb") as pipe, open(reader, "rb"):
            pipe.write(secret.encode())  # 64 bytes: a pipe takes them at once
            pipe.flush()
            arguments = ["--gateway-auth-secret", f"fd:{reader}", *self.arguments(uuid), uuid]
            return self._spawn(lock, uuid, arguments, self._environment(token), (reader,))

    def arguments(self, uuid: str) -> list[str]:
        """Return the options that the cluster's config asks for, those that are not the defaults; none is secret."""
        arguments = ["--log-dir", str(self.log_dir / uuid)]
        if self.forwarding != ForwardingOptions():
            arguments += ["--forwarding", json.dumps(asdict(self.forwarding))]
        if self.sessions != SessionOptions():
            arguments += ["--sessions", self.sessions.to_json()]
        if self.gateway_tunnel:
            arguments += ["--gateway-tunnel", self.gateway_tunnel]
        if self.gateway_memory != GATEWAY_MEMORY:
            arguments += ["--gateway-memory", str(self.gateway_memory)]
        if self.hold_on_failure:
            arguments += ["--hold-on-failure", str(self.hold_on_failure)]
        if not self.container_init:
            arguments.append("--no-container-init")
        return arguments + self.auditing.to_arguments()

    def api_environment(self, token: str) -> dict[str, str]:
        """Return the variables by which crunch-run finds the API, as the container with ``token``."""
        insecure = {"ARVADOS_API_HOST_INSECURE": "1"} if self.api_insecure else {}
        return {"ARVADOS_API_HOST": self.api_host, "ARVADOS_API_TOKEN": token} | insecure

    def clean_up(self, lock: ProcessLock, uuid: str) -> subprocess.Popen[bytes]:
        """Start removing a dead crunch-run's leftovers."""
        return self._spawn(lock, uuid, ["--clean-up", uuid], self._environment(None), ())

    def _spawn(
        self,
        lock: ProcessLock,
        uuid: str,
        arguments: list[str],
        environment: Mapping[str, str],
        pass_fds: tuple[int, ...],
    ) -> subprocess.Popen[bytes]:
        try:
            with self._log(uuid).open("ab") as log_file:
                child = subprocess.Popen(  # noqa: S603 - the program is the administrator's own choice
                    [str(self.program), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log_file,
                    stderr=log_file,
                    env=dict(environment),
                    cwd="/",
                    pass_fds=(lock.descriptor, *pass_fds),
                    start_new_session=True,
                )
        except OSError as error:
            raise ArvSshError(f"cannot start {self.program} for container {uuid}: {error.strerror or error}") from error
        lock.hand_over(child.pid)
        return child

    def _log(self, uuid: str) -> Path:
        directory = self.log_dir / uuid
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory / "crunch-run.txt"

    def _environment(self, token: str | None) -> dict[str, str]:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return environment if token is None else environment | self.api_environment(token)
