"""``arv-ssh``: the administrator's command.

Owns the command line of ``controller`` and ``cluster up|run|down``. Each command's modules are imported when it is
called: the controller needs none of the cluster's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from arv_ssh.config import ClusterConfig
from arv_ssh.errors import ArvSshError, ConfigError, UsageError


def parser() -> argparse.ArgumentParser:
    """Return the command line's description. A command after ``--`` is taken off before."""
    result = argparse.ArgumentParser(prog="arv-ssh", description="Run the controller, or a whole cluster for tests.")
    commands = result.add_subparsers(metavar="COMMAND", required=True)
    controller = commands.add_parser("controller", help="serve a cluster's shell endpoint")
    controller.add_argument("--config", type=Path, default=Path("/etc/arvados/config.yml"))
    controller.add_argument("--cluster", metavar="ID", help="the cluster, when the config has several")
    controller.add_argument("--listen", metavar="HOST:PORT", help="default: the config's InternalURLs or ExternalURL")
    controller.set_defaults(function=_controller)
    cluster = commands.add_parser("cluster", help="an embedded cluster on this machine")
    actions = cluster.add_subparsers(metavar="ACTION", required=True)
    for name, function, text in (
        ("up", _cluster_up, "start it and print what it is, as JSON"),
        ("down", _cluster_down, "stop it and its containers"),
        ("run", _cluster_run, "run a command in a new container and print its UUID, as JSON, once it is Running"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("--dir", type=Path, required=True, metavar="DIR", help="the cluster's directory")
        action.set_defaults(function=function)
        if name == "run":
            _add_run_options(action)
    return result


def _add_run_options(run: argparse.ArgumentParser) -> None:
    run.usage = "arv-ssh cluster run --dir DIR --image IMAGE [options] -- COMMAND…"
    run.add_argument("--image", required=True)
    run.add_argument("--as", dest="as_user", default="active", metavar="USER", help="who submits (default: active)")
    run.add_argument("--user", default="", metavar="U", help="the user the command runs as, in the container")
    run.add_argument(
        "--mount", action="append", default=[], metavar="SRC:DST[:ro]", help="bind a directory of this machine"
    )
    run.add_argument("--cwd", default=".", metavar="D", help="working directory (default: the image's)")
    run.add_argument("--env", action="append", default=[], metavar="K=V")
    run.add_argument("--vcpus", type=int, default=1)
    run.add_argument("--ram", type=int, default=256 << 20, metavar="BYTES")
    run.add_argument("--reuse", action="store_true", help="take a container that runs the same already")
    run.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="for Running (default: %(default)s)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    here = words.index("--") if "--" in words else len(words)
    options = parser().parse_args(words[:here])
    options.command = words[here + 1 :]
    try:
        return int(options.function(options))
    except ArvSshError as error:
        print(f"arv-ssh: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("arv-ssh: interrupted", file=sys.stderr)
        return 130


def listen_address(text: str | None, cluster: ClusterConfig) -> tuple[str, int]:
    """Return where the controller listens: ``text``, else the config's first internal URL, else its external one."""
    url = f"https://{text}" if text else next(iter(cluster.internal_urls), cluster.controller_url)
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"--listen {text}: it must be HOST:PORT") from error
    if not host:
        raise ConfigError(
            "nothing says where to listen; give --listen HOST:PORT or set Services.Controller.InternalURLs"
        )
    return host, 443 if port is None else port


def _controller(options: argparse.Namespace) -> int:
    from arv_ssh import config
    from arv_ssh.controller.main import run

    cluster = config.load(options.config, options.cluster)
    run(cluster, listen_address(options.listen, cluster))
    return 0


def _cluster_up(options: argparse.Namespace) -> int:
    from arv_ssh.cli.cluster_dir import ClusterDir
    from arv_ssh.cli.cluster_up import up

    print(json.dumps(up(ClusterDir(options.dir)), indent=2))
    return 0


def _cluster_down(options: argparse.Namespace) -> int:
    from arv_ssh.cli.cluster_dir import ClusterDir
    from arv_ssh.cli.cluster_down import down

    print(json.dumps(down(ClusterDir(options.dir))))
    return 0


def _cluster_run(options: argparse.Namespace) -> int:
    from arv_ssh.cli.cluster_run import run

    return run(options, options.command)


if __name__ == "__main__":
    sys.exit(main())
