"""``arv-ssh sessions``: see who is in which container, and end a session.

Owns the command line and how the answer is printed; the controllers of the cluster know the sessions.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arv_ssh import extras
from arv_ssh.client.messages import printable
from arv_ssh.errors import UsageError

if TYPE_CHECKING:
    from arv_ssh.api.client import ApiClient

SESSION_ID = re.compile(r"ses-[0-9a-f]{20}")
COLUMNS = ("id", "user_uuid", "container_uuid", "login_username", "peer", "started", "bytes")

LIST_EXAMPLES = """examples:
  arv-ssh sessions list
  arv-ssh sessions list --json --config /etc/arvados/config.yml
"""
KILL_EXAMPLES = """examples:
  arv-ssh sessions kill ses-0123456789abcdef0123 --reason 'the node is needed'
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``sessions``."""
    parser = commands.add_parser("sessions", help="list the open sessions of the whole cluster, or end one")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="show who is in which container, from where, since when")
    listing.add_argument("--json", action="store_true", help="print the answer as JSON")
    listing.set_defaults(function=_list)
    killing = actions.add_parser("kill", help="end a session, and tell its user that an administrator did")
    killing.add_argument("id", metavar="ID", help="the session's id, ses-…, from the list")
    killing.add_argument("--reason", default="", metavar="TEXT", help="the reason that the user is shown")
    killing.set_defaults(function=_kill)
    listing.description, listing.epilog = "Show who is in which container, from where, since when.", LIST_EXAMPLES
    killing.description, killing.epilog = "End a session, and tell its user that an administrator did.", KILL_EXAMPLES
    for action in (listing, killing):
        action.formatter_class = argparse.RawDescriptionHelpFormatter
        action.add_argument(
            "--config",
            type=Path,
            action="append",
            metavar="FILE",
            help="ask as root, with the cluster's config (default: with ARVADOS_API_HOST and ARVADOS_API_TOKEN)",
        )
        action.add_argument("--cluster", metavar="ID", help="the cluster, if the config has several")


def _client(options: argparse.Namespace) -> ApiClient:
    """Return a client with the root token of --config, or with the settings that Arvados' own clients have."""
    if options.config:
        extras.require("--config", "controller", "PyYAML")
    from arv_ssh.api.client import ApiClient

    if options.config:
        from arv_ssh.config import cluster_config

        first, *overlays = options.config
        cluster = cluster_config.load(first, options.cluster, overlays=overlays)
        verify = False if cluster.api_insecure else os.environ.get("SSL_CERT_FILE") or True
        return ApiClient(cluster.controller_url, cluster.system_root_token, verify=verify)
    from arv_ssh.client import settings

    site = settings.load("")
    return ApiClient(f"https://{site.authority}", site.token, verify=not site.insecure and (site.ca_file or True))


def _list(options: argparse.Namespace) -> int:
    answer = _client(options).shell_sessions()
    if options.json:
        print(json.dumps(answer, indent=2))
    else:
        print(table(answer["items"]))
        for sentence in answer["missing"]:
            print(f"not all sessions are shown: {printable(sentence)}")
    return 1 if answer["missing"] else 0


def _kill(options: argparse.Namespace) -> int:
    if not SESSION_ID.fullmatch(options.id):
        raise UsageError(f"{options.id!r} is not a session id (ses-, 20 hex digits); arv-ssh sessions list shows them")
    ended = _client(options).kill_shell_session(options.id, options.reason)
    print(f"ended {ended['id']} of {ended['user_uuid']} in {ended['container_uuid']}")
    return 0


def table(items: list[dict[str, Any]]) -> str:
    """Return the sessions as aligned columns under a heading; the login name "_" is the image's default user."""
    rows = [COLUMNS, *(_row(item) for item in items)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    size = item["bytes_from_client"] + item["bytes_to_client"]
    shown = item | {"login_username": item["login_username"] or "_", "bytes": size}
    # A login name is what the user made of the container's passwd: it may hold what a terminal obeys.
    return tuple(printable(str(shown[name])) for name in COLUMNS)
