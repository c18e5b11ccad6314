"""The command line of ``arv-ssh controller``: where it listens, which API it asks, in how many processes."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from arv_ssh import log
from arv_ssh.cli import daemons
from arv_ssh.config import cluster_config
from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.controller.peers import peers, private_socket
from arv_ssh.errors import ConfigError, UsageError
from arv_ssh.net import listen
from arv_ssh.processes import core_dumps

DEFAULT_CONFIG = Path("/etc/arvados/config.yml")
MAX_WORKERS = 256
"""More than a host has use for; rejects typos such as 1000."""

EXAMPLES = """examples:
  arv-ssh controller --config /etc/arvados/config.yml
  arv-ssh controller --config /etc/arvados/config.yml --config shell-access.yml --listen 127.0.0.1:9004
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``controller``."""
    parser = commands.add_parser(
        "controller",
        help="serve a cluster's shell endpoint",
        description="Serve a cluster's shell endpoint.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--config", type=Path, action="append", metavar="FILE",
        help=f"the cluster's config; repeat it for files that are merged over it (default: {DEFAULT_CONFIG})",
    )  # fmt: skip
    add("--cluster", metavar="ID", help="the cluster, if the config has several")
    add("--api", metavar="URL", default="", help="the Arvados API to ask, if the config names none")
    add(
        "--listen", metavar="HOST:PORT",
        help="default: the sockets that systemd passes, else the one of the config's InternalURLs that is an address "
        "of this machine, else its ExternalURL",
    )  # fmt: skip
    add(
        "--listen-fd", type=int, action="append", metavar="FD", default=[],
        help="an inherited file descriptor of a listening socket, instead of --listen; may be repeated",
    )  # fmt: skip
    add("--workers", type=int, metavar="N", default=1, help="processes that serve the port (default: 1)")
    add(
        "--run-dir", type=Path, metavar="DIR",
        help="where this host's controllers of the cluster find each other; mode 0700 (default: the config's "
        "RunDirectory, else one for this user and cluster in /run)",
    )  # fmt: skip
    add(
        "--drain-timeout", type=float, metavar="SECONDS",
        help="how long sessions are kept after SIGTERM (default: the config's DrainTimeout, else "
        f"{cluster_config.DRAIN_TIMEOUT:.0f})",
    )  # fmt: skip
    add(
        "--leave-draining", action="store_true",
        help="on SIGTERM the supervisor ends at once; its workers end with their last session or at the drain time-out "
        "(for a service manager that leaves them alone)",
    )  # fmt: skip
    add("--supervisor-fd", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(function=_controller, needs=("the controller", "controller"))


def listen_address(text: str | None, cluster: ClusterConfig) -> tuple[str, int]:
    """Return where the controller listens: ``text``, else the internal URL that is this machine's, else the external.

    Several hosts share a config, which names them all.
    """
    if text:
        url = f"https://{text}"
    elif cluster.internal_urls:
        url = next(filter(_is_ours, cluster.internal_urls), "")
        if not url:
            raise ConfigError(
                f"none of Services.Controller.InternalURLs ({', '.join(cluster.internal_urls)}) is an address of "
                "this machine; give --listen HOST:PORT"
            )
    else:
        url = cluster.controller_url
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"--listen {text}: it must be HOST:PORT") from error
    if not host:
        raise ConfigError(
            "no address to listen on; give --listen HOST:PORT or set Services.Controller.InternalURLs"
        )
    return host, 443 if port is None else port


def _is_ours(url: str) -> bool:
    host = urlsplit(url).hostname
    return host is not None and peers.is_of_this_machine(host)


def _controller(options: argparse.Namespace) -> int:
    core_dumps.forbid()
    _check(options)
    first, *overlays = options.config or [DEFAULT_CONFIG]
    load = partial(cluster_config.load, first, options.cluster, overlays=overlays, api=options.api)
    cluster = load()
    run_dir = private_socket.directory(cluster, options.run_dir, os.environ)
    listeners = _listeners(options, cluster, run_dir)
    if options.workers > 1 or options.leave_draining:
        return _supervise(options, run_dir, listeners)
    _serve(options, load, listeners)
    return 0


def _check(options: argparse.Namespace) -> None:
    if not 1 <= options.workers <= MAX_WORKERS:
        raise UsageError(f"--workers {options.workers}: it must be a whole number from 1 to {MAX_WORKERS}")
    if options.drain_timeout is not None and not 0 <= options.drain_timeout < float("inf"):
        raise UsageError(f"--drain-timeout {options.drain_timeout}: it must be a number of seconds from 0")
    if options.listen and options.listen_fd:
        raise UsageError("--listen and --listen-fd both name a socket; give one of them")


def _listeners(options: argparse.Namespace, cluster: ClusterConfig, run_dir: Path) -> list[socket.socket]:
    if options.listen_fd:
        return [listen.adopt(descriptor, "--listen-fd") for descriptor in options.listen_fd]
    if passed := listen.inherited(os.environ):
        if options.listen:
            raise UsageError("--listen conflicts with the sockets that systemd passed; drop one of them")
        return passed
    # A port that is taken is an error, but for a process of this very cluster whose place we are to take.
    predecessor = bool(private_socket.living(run_dir))
    return [listen.bind(*listen_address(options.listen, cluster), shared=predecessor)]


def _serve(options: argparse.Namespace, load: Callable[[], ClusterConfig], listeners: list[socket.socket]) -> None:
    from arv_ssh.controller.process.main import Process

    supervisor = socket.socket(fileno=options.supervisor_fd) if options.supervisor_fd is not None else None
    Process(load, listeners, options.run_dir, options.drain_timeout, supervisor).run()


def _supervise(options: argparse.Namespace, run_dir: Path, listeners: list[socket.socket]) -> int:
    from arv_ssh.controller.process.supervisor import Supervisor

    log.configure()
    command = [str(daemons.program("arv-ssh")), "controller", f"--run-dir={run_dir}"]
    command += [f"--config={path}" for path in options.config or []]
    for name in ("cluster", "api", "drain_timeout"):
        if (value := getattr(options, name)) not in (None, ""):
            command.append(f"--{name.replace('_', '-')}={value}")
    supervisor = Supervisor(
        command, options.workers, listeners, run_dir=run_dir, leave_draining=options.leave_draining
    )
    return asyncio.run(supervisor.run())
