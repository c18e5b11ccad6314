"""``crunch-dispatch-local``: starts ``crunch-run`` on this machine for the cluster's queued containers.

Owns the command line and the loop. The crunch-runs it started live on without it, and are found again by their lock
files when it comes back. It ends on SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from urllib.parse import urlsplit

from arv_ssh import __version__, extras, log
from arv_ssh.api.client import ApiClient
from arv_ssh.config import cluster_config
from arv_ssh.config.cluster_config import ClusterConfig
from arv_ssh.dispatch.crunch_run import CrunchRun
from arv_ssh.dispatch.dispatcher import Dispatcher
from arv_ssh.dispatch.log_sweep import LogSweep
from arv_ssh.errors import ArvSshError, ConfigError
from arv_ssh.processes import core_dumps, process_lock

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = Path("/etc/arvados/config.yml")
DEFAULT_STATE_DIR = Path("/var/lib/arv-ssh/dispatch")

EXAMPLES = """examples:
  crunch-dispatch-local --config /etc/arvados/config.yml
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line's description."""
    result = argparse.ArgumentParser(
        prog="crunch-dispatch-local",
        description="Run a cluster's queued containers on this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    result.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, help="the cluster's config (default: %(default)s)"
    )
    result.add_argument("--cluster", metavar="ID", help="the cluster, if the config has several")
    result.add_argument(
        "--state-dir", type=Path, default=DEFAULT_STATE_DIR, help="lock files of the running containers (%(default)s)"
    )
    result.add_argument(
        "--log-dir", type=Path, metavar="DIR", help="containers' logs (default: LogDirectory in the config)"
    )
    result.add_argument(
        "--crunch-run",
        type=Path,
        default=Path(sys.executable).with_name("crunch-run"),
        metavar="PROGRAM",
        help="the crunch-run to start (default: the one beside this program)",
    )
    result.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the dispatcher until a signal; return its exit status."""
    options = parser().parse_args(argv)
    core_dumps.forbid()
    log.configure()
    try:
        extras.require("this program", "node")
        _run(options, cluster_config.load(options.config, options.cluster))
    except ArvSshError as error:
        print(f"crunch-dispatch-local: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _run(options: argparse.Namespace, cluster: ClusterConfig) -> None:
    state_dir = _directory(options.state_dir, "--state-dir")
    url = cluster.api or cluster.controller_url
    logs = replace(cluster.container_logs, directory=options.log_dir or cluster.container_logs.directory)
    runner = CrunchRun(
        program=options.crunch_run.absolute(),
        system_root_token=cluster.system_root_token,
        api_host=urlsplit(url).netloc,
        api_insecure=cluster.api_insecure,
        log_dir=_directory(logs.directory, "--log-dir"),
        forwarding=cluster.forwarding,
        sessions=cluster.sessions,
        auditing=cluster.auditing,
        gateway_tunnel=cluster.gateway_tunnel,
        gateway_memory=cluster.gateway_memory,
        hold_on_failure=cluster.hold_on_failure,
        container_init=cluster.container_init,
    )
    runner.check()
    if not runner.api_host:
        raise ConfigError(f"Services.Controller.ExternalURL of cluster {cluster.cluster_id} is not set")
    own_path = state_dir / "dispatcher.lock"
    own_lock = process_lock.acquire(own_path)
    if own_lock is None:
        raise ConfigError(f"another crunch-dispatch-local (pid {process_lock.holder_pid(own_path)}) uses {state_dir}")
    with own_lock:
        own_lock.record(os.getpid())
        verify = not cluster.api_insecure and (os.environ.get("SSL_CERT_FILE") or True)
        api = ApiClient(url, cluster.system_root_token, verify=verify)
        dispatcher = Dispatcher(api, runner, state_dir, cluster.max_dispatch_attempts)
        sweep = LogSweep(replace(logs, directory=runner.log_dir))
        Loop(dispatcher, sweep, cluster.dispatch_poll_interval, options.ready_fd).run()


def _directory(path: Path, option: str) -> Path:
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create directory {path}: {error.strerror}; name another with {option}") from error
    return path


class Loop:
    """Polls until a signal. ``ready_fd`` gets one line after the first poll that worked."""

    def __init__(self, dispatcher: Dispatcher, sweep: LogSweep, interval: float, ready_fd: int | None) -> None:
        self._dispatcher = dispatcher
        self._sweep = sweep
        self._interval = interval
        self._ready_fd = ready_fd
        # Its put is reentrant, so a signal handler may use it.
        self._stop: SimpleQueue[int] = SimpleQueue()
        self._outage = ""

    def run(self) -> None:
        """Poll until SIGTERM or SIGINT."""
        for stopping in (signal.SIGTERM, signal.SIGINT):
            signal.signal(stopping, self._on_signal)
        log.event(logger, "dispatcher is polling", interval=self._interval)
        while True:
            self._poll()
            with suppress(Empty):
                number = self._stop.get(timeout=self._interval)
                log.event(logger, "dispatcher is stopping", signal=signal.Signals(number).name)
                return

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stop.put(number)

    def _poll(self) -> None:
        try:
            self._dispatcher.poll()
        except (ArvSshError, OSError) as error:
            # Once an outage, not once a poll.
            if str(error) != self._outage:
                self._outage = str(error)
                log.event(logger, "a poll failed; trying again", level=logging.WARNING, error=self._outage)
            return
        self._sweep.look(self._dispatcher.in_use)
        if self._outage:
            self._outage = ""
            log.event(logger, "polling works again")
        if self._ready_fd is not None:
            os.write(self._ready_fd, b"ready\n")
            os.close(self._ready_fd)
            self._ready_fd = None


if __name__ == "__main__":
    sys.exit(main())
