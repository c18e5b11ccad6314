"""What the dispatchers' programs share: options, directories, the lock that keeps a second one away, start and end.

Owns their common command line. Knows nothing of where containers run.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from arv_ssh import __version__, extras, log
from arv_ssh.api.client import ApiClient
from arv_ssh.config import cluster_config
from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.config.container_logs import ContainerLogs
from arv_ssh.dispatch.crunch_run import CrunchRun
from arv_ssh.errors import ArvSshError, ConfigError
from arv_ssh.processes import core_dumps, process_lock
from arv_ssh.processes.process_lock import ProcessLock

DEFAULT_CONFIG = Path("/etc/arvados/config.yml")


class Start(NamedTuple):
    """What a dispatcher starts with; ``lock`` is to be held while it runs."""

    options: argparse.Namespace
    cluster: ClusterConfig
    api: ApiClient
    lock: ProcessLock


def parser(program: str, description: str, state_dir: Path, state: str) -> argparse.ArgumentParser:
    """Return the common part of a dispatcher's command line; ``state`` says what ``state_dir`` holds."""
    result = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=f"examples:\n  {program} --config /etc/arvados/config.yml\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    result.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, help="the cluster's config (default: %(default)s)"
    )
    result.add_argument("--cluster", metavar="ID", help="the cluster, if the config has several")
    result.add_argument("--state-dir", type=Path, default=state_dir, help=f"{state} (%(default)s)")
    result.add_argument(
        "--log-dir", type=Path, metavar="DIR", help="containers' logs (default: LogDirectory in the config)"
    )
    result.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    return result


def main(program: str, options: argparse.Namespace, run: Callable[[Start], None]) -> int:
    """Run a dispatcher until a signal; return its exit status."""
    core_dumps.forbid()
    log.configure()
    try:
        extras.require("this program", "node")
        cluster = cluster_config.load(options.config, options.cluster)
        if not urlsplit(api_url(cluster)).netloc:
            raise ConfigError(f"Services.Controller.ExternalURL of cluster {cluster.cluster_id} is not set")
        with _only_one(program, directory(options.state_dir, "--state-dir")) as lock:
            verify = not cluster.api_insecure and (os.environ.get("SSL_CERT_FILE") or True)
            api = ApiClient(api_url(cluster), cluster.system_root_token, verify=verify)
            run(Start(options, cluster, api, lock))
    except ArvSshError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def api_url(cluster: ClusterConfig) -> str:
    """Return the URL of the API that dispatcher and crunch-runs ask."""
    return cluster.api or cluster.controller_url


def container_logs(start: Start) -> ContainerLogs:
    """Return where containers' logs go, and for how long, by the command line and the config."""
    logs = start.cluster.container_logs
    return replace(logs, directory=start.options.log_dir or logs.directory)


def crunch_run(program: Path, log_dir: Path, cluster: ClusterConfig, gateway_tunnel: str) -> CrunchRun:
    """Return how crunch-runs are started by the cluster's config."""
    return CrunchRun(
        program=program,
        system_root_token=cluster.system_root_token,
        api_host=urlsplit(api_url(cluster)).netloc,
        api_insecure=cluster.api_insecure,
        log_dir=log_dir,
        forwarding=cluster.forwarding,
        sessions=cluster.sessions,
        auditing=cluster.auditing,
        gateway_tunnel=gateway_tunnel,
        gateway_memory=cluster.gateway_memory,
        hold_on_failure=cluster.hold_on_failure,
        container_init=cluster.container_init,
    )


def directory(path: Path, option: str) -> Path:
    """Return ``path``, made for this user alone if it is not there; ``option`` names another."""
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create directory {path}: {error.strerror}; name another with {option}") from error
    return path


def _only_one(program: str, state_dir: Path) -> ProcessLock:
    path = state_dir / "dispatcher.lock"
    lock = process_lock.acquire(path)
    if lock is None:
        raise ConfigError(f"another {program} (pid {process_lock.holder_pid(path)}) uses {state_dir}")
    lock.record(os.getpid())
    return lock
