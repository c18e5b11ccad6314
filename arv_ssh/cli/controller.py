"""The command line of ``arv-ssh controller``: where it listens, which API it asks."""

from __future__ import annotations

import argparse
from pathlib import Path
from urllib.parse import urlsplit

from arv_ssh.config import ClusterConfig
from arv_ssh.errors import ConfigError, UsageError

DEFAULT_CONFIG = Path("/etc/arvados/config.yml")

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
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        metavar="FILE",
        help=f"the cluster's config; given again, a file that is laid over it (default: {DEFAULT_CONFIG})",
    )
    parser.add_argument("--cluster", metavar="ID", help="the cluster, when the config has several")
    parser.add_argument("--api", metavar="URL", default="", help="the Arvados API to ask, where the config names none")
    parser.add_argument("--listen", metavar="HOST:PORT", help="default: the config's InternalURLs or ExternalURL")
    parser.add_argument(
        "--run-dir",
        type=Path,
        metavar="DIR",
        help="where this host's controllers of the cluster find each other; mode 0700 (default: the config's "
        "RunDirectory, else one for this user and cluster in /run)",
    )
    parser.set_defaults(function=_controller)


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

    first, *overlays = options.config or [DEFAULT_CONFIG]
    cluster = config.load(first, options.cluster, overlays=overlays, api=options.api)
    run(cluster, listen_address(options.listen, cluster), options.run_dir)
    return 0
