"""The command ``crunch-sshd``: a gateway alone, for a container that something else runs."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from setproctitle import setproctitle

from arv_ssh import __version__, log, uuids
from arv_ssh.errors import ArvSshError, UsageError
from crunch_sshd import secret_argument
from crunch_sshd.crunch_run import split_address


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; print the gateway address to record on stdout."""
    options = _parser().parse_args(arguments)
    log.configure()
    try:
        return _serve(options)
    except ArvSshError as error:
        print(f"crunch-sshd: {error}", file=sys.stderr)
        return error.exit_code


def _serve(options: argparse.Namespace) -> int:
    if not uuids.is_container(options.container_uuid):
        raise UsageError(f"{options.container_uuid!r} is not a container UUID such as zzzzz-dz642-abcdeabcdeabcde")
    secret = secret_argument.settle(options.gateway_auth_secret)  # before what is slow to import
    setproctitle(f"crunch-sshd {options.container_uuid}")
    from crunch_sshd import policy
    from crunch_sshd.docker_engine import connect
    from crunch_sshd.gateway import Gateway
    from crunch_sshd.runtimes.choose import choose

    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before any thread starts, so that all inherit it
    host, port = split_address(options.gateway_address)
    gateway = Gateway(
        container_uuid=options.container_uuid,
        secret=secret,
        runtime=choose(options.runtime, connect(), options.docker_container, options.container_uuid),
        host=host,
        port=port,
        advertise=options.advertise,
        accept_unsigned_sessions=options.accept_unsigned_sessions,
        policy=policy.from_json(options.forwarding),
    )
    print(gateway.start(), flush=True)
    signal.sigwait(signals)
    gateway.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crunch-sshd", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--container-uuid", required=True, metavar="UUID")
    parser.add_argument("--docker-container", required=True, metavar="NAME", help="the container's name or id")
    parser.add_argument(
        secret_argument.OPTION,
        required=True,
        metavar="SECRET",
        help="the container's secret, or where it is: env:NAME, file:PATH, fd:N",
    )
    parser.add_argument("--gateway-address", default="127.0.0.1", metavar="HOST[:PORT]", help="where to listen")
    parser.add_argument("--runtime", default="auto", choices=["auto", "docker", "oci"], help="how sessions execute")
    parser.add_argument("--advertise", metavar="HOST", help="the host to record, where it differs from the one above")
    parser.add_argument(
        "--forwarding",
        default="{}",
        metavar="JSON",
        help="what users may forward: local, remote, unix, agent (true or false), destinations (a list of patterns)",
    )
    parser.add_argument(
        "--accept-unsigned-sessions",
        action="store_true",
        help="let a stock Arvados controller in, which proves the container but signs no session",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
