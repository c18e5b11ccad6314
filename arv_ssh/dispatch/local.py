"""``crunch-dispatch-local``: starts ``crunch-run`` on this machine for the cluster's queued containers.

Owns the command line. The crunch-runs it started live on without it, and are found again by their lock files when it
comes back.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from arv_ssh.dispatch import program
from arv_ssh.dispatch.dispatcher import Dispatcher
from arv_ssh.dispatch.log_sweep import LogSweep
from arv_ssh.dispatch.loop import Loop
from arv_ssh.dispatch.processes import Processes
from arv_ssh.dispatch.program import Start

PROGRAM = "crunch-dispatch-local"
DEFAULT_STATE_DIR = Path("/var/lib/arv-ssh/dispatch")


def parser() -> argparse.ArgumentParser:
    """Return the command line's description."""
    result = program.parser(
        PROGRAM, "Run a cluster's queued containers on this machine.", DEFAULT_STATE_DIR,
        "lock files of the running containers",
    )  # fmt: skip
    result.add_argument(
        "--crunch-run",
        type=Path,
        default=Path(sys.executable).with_name("crunch-run"),
        metavar="PROGRAM",
        help="the crunch-run to start (default: the one beside this program)",
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the dispatcher until a signal; return its exit status."""
    return program.main(PROGRAM, parser().parse_args(argv), _run)


def _run(start: Start) -> None:
    options, cluster = start.options, start.cluster
    logs = program.container_logs(start)
    log_dir = program.directory(logs.directory, "--log-dir")
    starter = program.crunch_run(options.crunch_run.absolute(), log_dir, cluster, cluster.gateway_tunnel)
    starter.check()
    runs = Processes(starter, start.lock.path.parent)
    dispatcher = Dispatcher(start.api, runs, cluster.max_dispatch_attempts)
    sweep = LogSweep(replace(logs, directory=log_dir))
    Loop(
        dispatcher, cluster.dispatch_poll_interval, options.ready_fd, children=True,
        polled=lambda: sweep.look(dispatcher.in_use),
    ).run(start.api)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
