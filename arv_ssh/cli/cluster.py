"""The command line of ``arv-ssh cluster up|run|down``: an embedded cluster on this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

UP_EXAMPLES = """examples:
  arv-ssh cluster up --dir /tmp/cluster
  arv-ssh cluster up --dir /tmp/cluster --scheduler slurm --nodes 4
"""
DOWN_EXAMPLES = """examples:
  arv-ssh cluster down --dir /tmp/cluster
"""
RUN_EXAMPLES = """examples:
  arv-ssh cluster run --dir /tmp/cluster --image arv-ssh/debian:test -- sleep 86400
  arv-ssh cluster run --dir /tmp/cluster --image arv-ssh/debian:test --user crunch --mount /data:/data:ro -- sleep 86400
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``cluster``."""
    cluster = commands.add_parser("cluster", help="an embedded cluster on this machine")
    actions = cluster.add_subparsers(metavar="ACTION", required=True)
    for name, function, text, examples in (
        ("up", _up, "start it and print its details as JSON", UP_EXAMPLES),
        ("down", _down, "stop it and its containers", DOWN_EXAMPLES),
        ("run", _run, "run a command in a new container and print its UUID, as JSON, once it is Running", RUN_EXAMPLES),
    ):
        action = actions.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        action.add_argument("--dir", type=Path, required=True, metavar="DIR", help="the cluster's directory")
        action.set_defaults(function=function, needs=("an embedded cluster", "embedded"))
        if name == "run":
            _add_run_options(action)
        elif name == "up":
            _add_up_options(action)


def _add_up_options(up: argparse.ArgumentParser) -> None:
    up.add_argument(
        "--scheduler", choices=("local", "slurm"),
        help="where containers run: on this machine, or in jobs of a Slurm made here, as root (default: local)",
    )  # fmt: skip
    up.add_argument(
        "--nodes", type=int, metavar="N", help="that Slurm's nodes, each in a network namespace (default: 2)"
    )


def _add_run_options(run: argparse.ArgumentParser) -> None:
    run.usage = "arv-ssh cluster run --dir DIR --image IMAGE [options] -- COMMAND…"
    run.add_argument("--image", required=True)
    run.add_argument("--as", dest="as_user", default="active", metavar="USER", help="submitting user (default: active)")
    run.add_argument("--user", default="", metavar="U", help="the user the command runs as, in the container")
    run.add_argument(
        "--mount", action="append", default=[], metavar="SRC:DST[:ro]", help="bind-mount a directory of this machine"
    )
    run.add_argument(
        "--publish", action="append", default=[], metavar="PORT[:public]",
        help="a port that has a web address; without public, only for whoever submitted it and for administrators",
    )  # fmt: skip
    run.add_argument("--cwd", default=".", metavar="D", help="working directory (default: the image's)")
    run.add_argument("--env", action="append", default=[], metavar="K=V")
    run.add_argument("--vcpus", type=int, default=1)
    run.add_argument("--partition", action="append", default=[], metavar="P", help="a partition of Slurm to run it in")
    run.add_argument("--ram", type=int, default=256 << 20, metavar="BYTES")
    run.add_argument(
        "--hold-on-failure", type=float, default=0.0, metavar="SECONDS", help="keep it up so long if the command fails"
    )
    run.add_argument("--reuse", action="store_true", help="reuse a container that already runs the same")
    run.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="for Running (default: %(default)s)"
    )


def _up(options: argparse.Namespace) -> int:
    from arv_ssh.cli.cluster_dir import ClusterDir
    from arv_ssh.cli.cluster_up import up

    print(json.dumps(up(ClusterDir(options.dir), options.scheduler, options.nodes), indent=2))
    return 0


def _down(options: argparse.Namespace) -> int:
    from arv_ssh.cli.cluster_dir import ClusterDir
    from arv_ssh.cli.cluster_down import down

    print(json.dumps(down(ClusterDir(options.dir))))
    return 0


def _run(options: argparse.Namespace) -> int:
    from arv_ssh.cli.cluster_run import run

    return run(options, options.command)
