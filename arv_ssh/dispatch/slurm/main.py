"""``crunch-dispatch-slurm``: submits a job to Slurm for each of the cluster's queued containers.

Owns the command line. The jobs live on without it, and are found again in Slurm's queue when it comes back.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from arv_ssh.dispatch import program
from arv_ssh.dispatch.dispatcher import Dispatcher
from arv_ssh.dispatch.loop import Loop
from arv_ssh.dispatch.program import Start
from arv_ssh.dispatch.slurm.attempts import StateDirectory
from arv_ssh.dispatch.slurm.commands import Slurm
from arv_ssh.dispatch.slurm.jobs import Jobs

PROGRAM = "crunch-dispatch-slurm"
PACE = 1.0
"""Seconds between two polls, however often containers change: each of them asks slurmctld."""
DEFAULT_STATE_DIR = Path("/var/lib/arv-ssh/dispatch-slurm")


def parser() -> argparse.ArgumentParser:
    """Return the command line's description."""
    return program.parser(
        PROGRAM, "Run a cluster's queued containers as jobs of Slurm.", DEFAULT_STATE_DIR,
        "what is known of the submitted jobs",
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the dispatcher until a signal; return its exit status."""
    return program.main(PROGRAM, parser().parse_args(argv), _run)


def _run(start: Start) -> None:
    cluster, options = start.cluster, start.cluster.slurm
    # The log directory is one of the nodes': nothing is made here.
    log_dir = program.container_logs(start).directory.absolute()
    starter = program.crunch_run(Path(options.crunch_run), log_dir, cluster, options.gateway_tunnel)
    slurm = Slurm(options.environment)
    slurm.check()
    jobs = Jobs(slurm, options, starter, StateDirectory(start.lock.path.parent), cluster.cluster_id)
    dispatcher = Dispatcher(start.api, jobs, cluster.max_dispatch_attempts)
    Loop(dispatcher, options.poll_interval, start.options.ready_fd, pace=PACE).run(start.api)


if __name__ == "__main__":
    sys.exit(main())
