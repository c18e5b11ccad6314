"""The command ``crunch-sshd``: a gateway alone, for a container that something else runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arv_ssh import __version__, extras, log, uuids
from arv_ssh.config import session_options
from arv_ssh.errors import ArvSshError, UsageError
from arv_ssh.processes import core_dumps, garbage
from crunch_sshd import gateway_options, process_title, secret_argument

if TYPE_CHECKING:
    from crunch_sshd.runtimes import Runtime

EXAMPLES = """examples:
  crunch-sshd --container-uuid zzzzz-dz642-abcdeabcdeabcde --docker-container web --gateway-auth-secret env:SECRET
  crunch-sshd --container-uuid zzzzz-dz642-abcdeabcdeabcde --runtime namespace --pid 4242 --gateway-auth-secret fd:3
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; print the gateway address to record on stdout, each time a tunnel changes it."""
    options = parser().parse_args(arguments)
    log.configure()
    try:
        return _serve(options)
    except ArvSshError as error:
        print(f"crunch-sshd: {error}", file=sys.stderr)
        return error.exit_code


def _serve(options: argparse.Namespace) -> int:
    extras.require("this program", "node")
    if not uuids.is_container(options.container_uuid):
        raise UsageError(f"{options.container_uuid!r} is not a container UUID such as zzzzz-dz642-abcdeabcdeabcde")
    _check_place(options)
    settings = gateway_options.from_arguments(options)
    secret = secret_argument.settle(options.gateway_auth_secret)  # before the slow imports
    core_dumps.forbid()
    process_title.set_title("crunch-sshd", options.container_uuid)
    from crunch_sshd.forwarding import policy
    from crunch_sshd.ssh import descriptors, paramiko_doors

    descriptors.raise_limit()
    paramiko_doors.check()  # before what opens the doors is imported
    from crunch_sshd.gateway.gateway import Gateway
    from crunch_sshd.run.events import Events

    events = Events()
    events.listen()  # handlers, and no blocked signals: sessions' programs would inherit those
    gateway = Gateway(
        container_uuid=options.container_uuid,
        secret=secret,
        runtime=_runtime(options),
        host=settings.host,
        port=settings.port,
        advertise=options.advertise,
        accept_unsigned_sessions=settings.accept_unsigned_sessions,
        policy=policy.from_json(settings.forwarding),
        options=session_options.from_json(settings.sessions),
        auditing=settings.auditing,
        uplink=gateway_options.uplink(settings.tunnel, os.environ),
        memory=settings.memory,
        log_directory=Path(settings.log_directory) if settings.log_directory else None,
        moved=lambda address: print(address, flush=True),
    )
    address = gateway.start()
    garbage.spare_what_is_here()
    if not options.gateway_tunnel:
        print(address, flush=True)
    events.wait_for(lambda: False)
    gateway.stop()
    return 0


def _runtime(options: argparse.Namespace) -> Runtime:
    """Return the runtime that was asked for; only those of an engine import its SDK and connect to it."""
    if options.runtime == "namespace":
        from crunch_sshd.runtimes.namespace import NamespaceRuntime

        return NamespaceRuntime(options.pid, options.container_uuid)
    from crunch_sshd.runtimes.choose import choose
    from crunch_sshd.runtimes.docker_engine import connect

    return choose(options.runtime, connect(), options.docker_container, options.container_uuid)


def _check_place(options: argparse.Namespace) -> None:
    """Raise :class:`UsageError` unless the command line names the container as the runtime requires."""
    if options.runtime == "namespace" and options.pid is None:
        raise UsageError("the runtime namespace needs --pid, the pid of the container's program on this host")
    if options.runtime != "namespace" and options.docker_container is None:
        raise UsageError("--docker-container is missing; give the container's name or id, or --runtime namespace --pid")


def parser() -> argparse.ArgumentParser:
    """Return the command line's description."""
    result = argparse.ArgumentParser(
        prog="crunch-sshd",
        description="Serve sessions in a container that something else runs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    result.add_argument("--container-uuid", required=True, metavar="UUID")
    result.add_argument("--docker-container", metavar="NAME", help="the container's name or id on its engine")
    result.add_argument(
        "--pid", type=int, metavar="N", help="with --runtime namespace: the container's program, as this host sees it"
    )
    result.add_argument(
        secret_argument.OPTION,
        required=True,
        metavar="SECRET",
        help="the container's secret, or where it is: env:NAME, file:PATH, fd:N",
    )
    logs = "serve the files there as the container's logs, read-only"
    gateway_options.add_arguments(result, ["auto", "docker", "oci", "namespace"], logs)
    result.add_argument("--advertise", metavar="HOST", help="the host to record, where it differs from the one above")
    return result


if __name__ == "__main__":
    sys.exit(main())
