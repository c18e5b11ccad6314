"""``arv-ssh cluster up``: start an embedded cluster, or what is missing of it.

Owns the order: config and certificates, controller, users and tokens, the files a user needs, dispatcher. A second
``up`` in the same directory starts nothing that runs; a failing one leaves nothing running that it started.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import yaml

from arv_ssh.api.client import ApiClient
from arv_ssh.cli import certificates, cluster_slurm, daemons
from arv_ssh.cli.cluster_dir import USERS, ClusterDir, write_private
from arv_ssh.cli.cluster_slurm import SlurmNodes
from arv_ssh.config import cluster_config
from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.errors import ArvSshError, ConfigError, NotFound, Unauthorized, Unavailable, UsageError
from arv_ssh.processes import process_lock

CLUSTER_ID = "zzzzz"
HOST = "127.0.0.1"
START_TIMEOUT = 30.0
"""Seconds for a daemon to answer; on a loaded machine of 2 cores it takes 2."""

USER_UUIDS = {
    "admin": f"{CLUSTER_ID}-tpzed-d9tiejq69daie8f",
    "active": f"{CLUSTER_ID}-tpzed-xurymjxw79nv3jz",
    "spectator": f"{CLUSTER_ID}-tpzed-l1s2piq4t4mps8r",
}
"""The users of Arvados' own test fixtures."""


def up(directory: ClusterDir, scheduler: str | None = None, nodes: int | None = None) -> dict[str, Any]:
    """Start the cluster in ``directory`` and return what there is to know about it.

    ``scheduler`` and ``nodes`` count at its first start; a started cluster keeps them.
    """
    directory.prepare()
    slurm = _slurm(directory, scheduler, nodes)
    with directory.exclusive(), ExitStack() as on_failure:
        running = process_lock.is_held(directory.controller_lock)
        complete = running and process_lock.is_held(directory.dispatcher_lock)
        if complete:
            print(f"arv-ssh: the cluster in {directory.root} is already up", file=sys.stderr)
        if slurm is not None:
            if not slurm.is_running:
                on_failure.callback(slurm.stop)
            slurm.start()
        if not running:
            _write_config(directory, slurm)
        cluster = cluster_config.load(directory.config)
        if not running:
            on_failure.callback(process_lock.end, directory.controller_lock, daemons.STOP_GRACE)
            _start_controller(directory, cluster, slurm)
        api = root_client(directory, cluster)
        _write_user_files(directory, cluster, {user: _token(directory, api, user) for user in USERS})
        if not complete:
            _warn_without_engine()
        if not process_lock.is_held(directory.dispatcher_lock):
            on_failure.callback(process_lock.end, directory.dispatcher_lock, daemons.STOP_GRACE)
            _start_dispatcher(directory, slurm)
        on_failure.pop_all()
        return _facts(directory, cluster) | ({"nodes": slurm.names()} if slurm else {})


def _slurm(directory: ClusterDir, scheduler: str | None, nodes: int | None) -> SlurmNodes | None:
    """Return the cluster's Slurm, None for one without."""
    found = cluster_slurm.load(directory)
    present = "slurm" if found else "local" if directory.config.exists() else None
    if present and scheduler not in (None, present):
        raise UsageError(f"the cluster in {directory.root} has the scheduler {present}; give another --dir")
    if (present or scheduler) != "slurm":
        if nodes is not None:
            raise UsageError("--nodes is for --scheduler slurm; this machine is the only node of any other cluster")
        return None
    return cluster_slurm.plan(directory, nodes)


def root_client(directory: ClusterDir, cluster: ClusterConfig) -> ApiClient:
    """Return a client of the cluster's API with the root token."""
    return ApiClient(cluster.controller_url, cluster.system_root_token, verify=str(directory.ca))


def _facts(directory: ClusterDir, cluster: ClusterConfig) -> dict[str, Any]:
    return {
        "dir": str(directory.root),
        "cluster_id": cluster.cluster_id,
        "api_host": urlsplit(cluster.controller_url).netloc,
        "api_url": cluster.controller_url,
        "config": str(directory.config),
        "ca": str(directory.ca),
        "env": str(directory.env),
        "ssh_config": str(directory.ssh_config),
        "tokens": {user: str(directory.token_file(user)) for user in USERS},
        "users": USER_UUIDS,
        "log": str(directory.log),
        "pids": {
            "controller": process_lock.holder_pid(directory.controller_lock),
            "dispatcher": process_lock.holder_pid(directory.dispatcher_lock),
        },
    }


def _write_config(directory: ClusterDir, slurm: SlurmNodes | None = None) -> None:
    """Write config.yml and, the first time, the certificates; secrets and the port stay what they were."""
    host = slurm.address if slurm else HOST
    previous = cluster_config.load(directory.config) if directory.config.exists() else None
    if not directory.server_key.exists():
        issued = certificates.issue(CLUSTER_ID, host)
        write_private(directory.ca, issued.authority)
        write_private(directory.server_certificate, issued.server)
        write_private(directory.server_key, issued.server_key)
    port = _port(directory, previous, host)
    url = f"https://{host}:{port}"
    section = {
        "SystemRootToken": previous.system_root_token if previous else secrets.token_hex(32),
        "ManagementToken": previous.management_token if previous else secrets.token_hex(32),
        "Services": {
            "Controller": {"ExternalURL": url, "InternalURLs": {url: {}}},
            "ContainerWebServices": {"ExternalURL": f"https://*.containers.localhost:{port}"},
        },
        "TLS": {"Certificate": f"file://{directory.server_certificate}", "Key": f"file://{directory.server_key}"},
        "Containers": {
            "ShellAccess": {"Mode": "default-on", "Admin": True, "User": True},
            "LocalDispatch": {"LogDirectory": str(directory.container_log)},
            **(slurm.section() if slurm else {}),
        },
        "EmbeddedAPI": {"Database": f"sqlite:///{directory.database}"},
    }
    if not directory.config.exists() or previous is None or url != previous.controller_url:
        write_private(directory.config, yaml.safe_dump({"Clusters": {CLUSTER_ID: section}}, sort_keys=False))


def _port(directory: ClusterDir, previous: ClusterConfig | None, host: str) -> int:
    """Return the port of the last time while it is free: what runs still asks there. Else any free one."""
    port = urlsplit(previous.controller_url).port if previous else None
    if port and _is_free(host, port):
        return port
    if port and directory.crunch_run_locks():
        raise ConfigError(
            f"port {port}, where this cluster's containers expect the controller, is taken by another process; "
            f"end that one, or end the containers with: arv-ssh cluster down --dir {directory.root}"
        )
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _start_controller(directory: ClusterDir, cluster: ClusterConfig, slurm: SlurmNodes | None) -> None:
    log_path = directory.log / "controller.log"
    listen = urlsplit(cluster.controller_url).netloc
    arguments = [str(daemons.program("arv-ssh")), "controller", "--config", str(directory.config), "--listen", listen]
    arguments += ["--drain-timeout", "0"]  # `cluster down` ends the containers first; it does not wait for sessions
    if slurm is not None:
        arguments = slurm.with_names(arguments)
    child = daemons.start(directory.controller_lock, arguments, log_path, daemons.environment())
    api = root_client(directory, cluster)
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            api.current_user()
            return
        except Unavailable as error:
            if child.poll() is not None:
                raise ArvSshError(
                    f"the controller ended while starting; its log says: {daemons.tail(log_path)}"
                ) from error
            if time.monotonic() > deadline:
                raise ArvSshError(
                    f"the controller did not answer in {START_TIMEOUT:.0f} s; its log says: {daemons.tail(log_path)}"
                ) from error
        time.sleep(0.05)


def _start_dispatcher(directory: ClusterDir, slurm: SlurmNodes | None) -> None:
    log_path = directory.log / "dispatcher.log"
    reader, writer = os.pipe()
    arguments = [
        str(daemons.program("crunch-dispatch-slurm" if slurm else "crunch-dispatch-local")),
        *("--config", str(directory.config)),
        *("--state-dir", str(directory.dispatch_state)),
        *("--log-dir", str(directory.container_log)),
        *("--ready-fd", str(writer)),
    ]
    with open(reader, "rb", buffering=0) as ready:
        with open(writer, "wb"):
            environ = daemons.environment(SSL_CERT_FILE=str(directory.ca), **(slurm.environment if slurm else {}))
            daemons.start(directory.dispatcher_lock, arguments, log_path, environ, (writer,))
        # One line after its first poll; end of file when it ended instead.
        if not select.select([ready], [], [], START_TIMEOUT)[0]:
            raise ArvSshError(f"the dispatcher did not start in time; its log says: {daemons.tail(log_path)}")
        if not ready.read(16):
            raise ArvSshError(f"the dispatcher ended while starting; its log says: {daemons.tail(log_path)}")


def _warn_without_engine() -> None:
    check = subprocess.run(  # noqa: S603 - our own program
        [str(daemons.program("crunch-run")), "--check-engine"], capture_output=True, text=True, timeout=START_TIMEOUT
    )
    if check.returncode:
        reason = check.stderr.strip().removeprefix("crunch-run: ")
        print(f"arv-ssh: the cluster is started, but its containers will be Cancelled: {reason}", file=sys.stderr)


def _token(directory: ClusterDir, api: ApiClient, user: str) -> str:
    """Return the user's token, the one on file when it still works; make user and token when there is none."""
    path = directory.token_file(user)
    if path.exists():
        token = path.read_text(encoding="ascii").strip()
        try:
            api.with_token(token).current_user()
            return token
        except Unauthorized:
            print(f"arv-ssh: the token in {path} is no longer valid; making a new one", file=sys.stderr)
    uuid = USER_UUIDS[user]
    try:
        api.get("users", uuid)
    except NotFound:
        api.create(
            "users",
            {
                "uuid": uuid,
                "username": user,
                "email": f"{user}@arvados.local",
                "first_name": user.capitalize(),
                "last_name": "User",
                "is_active": True,
                "is_admin": user == "admin",
            },
        )
    made = api.create("api_client_authorizations", {"owner_uuid": uuid})
    token = f"v2/{made['uuid']}/{made['api_token']}"
    write_private(path, token + "\n")
    return token


def _write_user_files(directory: ClusterDir, cluster: ClusterConfig, tokens: dict[str, str]) -> None:
    """Write DIR/env for the active user, and DIR/ssh_config, which uses it."""
    lines = {
        "ARVADOS_API_HOST": urlsplit(cluster.controller_url).netloc,
        "ARVADOS_API_TOKEN": tokens["active"],
        "SSL_CERT_FILE": str(directory.ca),
    }
    write_private(directory.env, "".join(f"export {name}={value}\n" for name, value in lines.items()))
    own = ["--settings", str(directory.env), "--output-dir", str(directory.root)]
    arguments = ["ssh-config", *own, "--no-control-master"]  # for tests and demos each session is one of its own
    made = subprocess.run(  # noqa: S603 - our own program
        [str(daemons.program("arvados-client")), *arguments],
        capture_output=True, text=True, timeout=START_TIMEOUT, env=daemons.environment(),
    )  # fmt: skip
    if made.returncode:
        raise ArvSshError(f"cannot write {directory.ssh_config}: {made.stderr.strip()}")
