"""``crunch-run``: run one container and let its users in.

Owns the command line, the environment it reads (ARVADOS_API_HOST, ARVADOS_API_TOKEN with the container's own token),
and the first instants of the process, in which the secret leaves the argument list. Slow imports come after.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from arv_ssh import __version__, extras, uuids
from arv_ssh.errors import ArvSshError, ConfigError, UsageError
from arv_ssh.processes import core_dumps
from crunch_sshd import gateway_options, process_title, secret_argument
from crunch_sshd.gateway_options import GatewayOptions

OWN_LOG = "crunch-run.txt"
"""The name of crunch-run's own log in the log directory, as stock Arvados has it."""

if TYPE_CHECKING:
    from crunch_sshd.run.gateway_child import GatewayChild

EXAMPLES = """examples:
  crunch-run --gateway-auth-secret file:/run/secret --gateway-address 10.0.0.7 zzzzz-dz642-abcdeabcdeabcde
"""


class _Parser(argparse.ArgumentParser):
    """Explains an error in one sentence, and never repeats a value: it could be a mistyped secret."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see crunch-run --help")


def parser() -> argparse.ArgumentParser:
    """Return the command line's description."""
    result = _Parser(
        prog="crunch-run",
        description="Run one Arvados container with a gateway for SSH.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    result.add_argument("uuid", nargs="?", metavar="CONTAINER_UUID", help="the container, which must be Locked")
    result.add_argument(
        secret_argument.OPTION,
        metavar="SECRET",
        help="the container's secret, or where it is: env:NAME, file:PATH, fd:N; without it there is no gateway",
    )
    logs = "write crunch-run.txt, stdout.txt and stderr.txt there; the gateway serves the files in DIR as logs"
    gateway_options.add_arguments(result, ["auto", "docker", "oci"], logs)
    result.add_argument(
        "--hold-on-failure",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="the longest time that a container may ask to be kept up for once its program has failed (default: 0)",
    )
    result.add_argument(
        "--no-container-init",
        action="store_true",
        help="start the container without an init; its own program must then reap the orphans of sessions",
    )
    result.add_argument(
        "--no-record-on-signal",
        action="store_true",
        help="leave the record alone when a signal ends the container: the dispatcher knows why and says so",
    )
    # For the dispatcher and `arv-ssh cluster`, which do not talk to Docker themselves.
    result.add_argument("--clean-up", action="store_true", help=argparse.SUPPRESS)
    result.add_argument("--check-engine", action="store_true", help=argparse.SUPPRESS)
    return result


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("it must be a number of seconds from 0")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status: 0 for a container that ended or was cancelled by a signal."""
    try:
        return _main(sys.argv[1:] if argv is None else argv)
    except ArvSshError as error:
        print(f"crunch-run: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, UsageError | ConfigError) else 1


def _main(argv: Sequence[str]) -> int:
    options, unknown = parser().parse_known_args(argv)
    if unknown:
        names = ", ".join(word.partition("=")[0] for word in unknown if word.startswith("-"))
        raise UsageError(f"unknown argument{f' {names}' if names else ''}; see crunch-run --help")
    extras.require("this program", "node")
    if options.check_engine:
        return _check_engine()
    if options.uuid is None or not uuids.is_container(options.uuid):
        raise UsageError("name one container by its UUID, which looks like zzzzz-dz642-abcdeabcdeabcde")
    if options.clean_up:
        return _clean_up(options.uuid)
    given = options.gateway_auth_secret
    secret = None if given is None else secret_argument.settle(given)
    core_dumps.forbid()
    process_title.set_title("crunch-run", options.uuid)
    _seal_descriptors()
    return _run(options, secret, gateway_options.from_arguments(options))


def _seal_descriptors() -> None:
    """Keep inherited descriptors from children: a dispatcher's lock means that crunch-run itself is alive."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and os.path.exists(f"/proc/self/fd/{name}"):
            os.set_inheritable(int(name), False)


def _run(options: argparse.Namespace, secret: str | None, gateway_opts: GatewayOptions) -> int:
    from arv_ssh import log
    from crunch_sshd.run.gateway_child import GatewayChild

    log.configure(logging.INFO, *_own_log(options.log_dir))
    if secret is None:
        return _run_container(options, None)
    gateway = GatewayChild(options.uuid, secret, gateway_opts)
    gateway.start()  # it imports its modules while this process does the same
    try:
        return _run_container(options, gateway)
    finally:
        gateway.stop(f"crunch-run, which was to run container {options.uuid}, is ending")


def _own_log(directory: Path | None) -> list[TextIO]:
    """Return ``crunch-run.txt`` of the log directory, unless stderr is that already, as with our dispatcher."""
    if directory is None:
        return []
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = open(directory / OWN_LOG, "a", encoding="utf-8")
        if os.path.samestat(os.fstat(file.fileno()), os.fstat(2)):
            file.close()
            return []
    except OSError:
        return []  # the container's output cannot be written there either, and that is recorded
    return [file]


def _run_container(options: argparse.Namespace, gateway: GatewayChild | None) -> int:
    """Run the container once the gateway is known to be able to let its users in."""
    from crunch_sshd.run.container_record import ContainerRecord, api_client
    from crunch_sshd.run.events import Events
    from crunch_sshd.runtimes import engine_over_ssh

    engine_over_ssh.spare()
    from crunch_sshd.run.lifecycle import Lifecycle, Settings

    events = Events()
    events.listen()
    record = ContainerRecord(api_client(os.environ), options.uuid, events.pause)
    if gateway is not None:
        gateway.check()
    settings = Settings(
        uuid=options.uuid, log_dir=options.log_dir, hold_on_failure=options.hold_on_failure,
        with_init=not options.no_container_init, records_signals=not options.no_record_on_signal,
    )  # fmt: skip
    Lifecycle(settings, record, events, gateway).run()
    return 0


def _clean_up(uuid: str) -> int:
    from crunch_sshd.run import container
    from crunch_sshd.runtimes import docker_engine

    container.clean_up(docker_engine.connect(), uuid)
    return 0


def _check_engine() -> int:
    from crunch_sshd.runtimes import docker_engine

    docker_engine.connect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
