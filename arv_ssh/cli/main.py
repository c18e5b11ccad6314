"""``arv-ssh``: the administrator's command.

Owns the table of its commands and the way from a failure to one line and an exit status. What a command needs is
imported when it is called: the controller needs nothing of the cluster's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from arv_ssh import __version__, extras
from arv_ssh.cli import audit, cluster, controller, sessions
from arv_ssh.errors import ArvSshError

COMMANDS = (controller, sessions, audit, cluster)
"""Modules with ``add_parser(commands)``, in the order of ``--help``."""

EXAMPLES = """examples:
  arv-ssh controller --config /etc/arvados/config.yml
  arv-ssh cluster up --dir /tmp/cluster
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line's description. A command after ``--`` is taken off before."""
    result = argparse.ArgumentParser(
        prog="arv-ssh",
        description="Run the controller, or a whole cluster for tests.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = result.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    here = words.index("--") if "--" in words else len(words)
    options = parser().parse_args(words[:here])
    options.command = words[here + 1 :]
    try:
        if needs := getattr(options, "needs", None):
            extras.require(*needs)
        return int(options.function(options))
    except ArvSshError as error:
        print(f"arv-ssh: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("arv-ssh: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
