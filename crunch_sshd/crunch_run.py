"""``crunch-run``: run one container and let its users in.

Owns the command line, the environment it reads (ARVADOS_API_HOST, ARVADOS_API_TOKEN with the container's own token),
and the first instants of the process, in which the secret leaves the argument list. What is slow to import comes after.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from arv_ssh import __version__, extras, uuids
from arv_ssh.audit import options as audit_options
from arv_ssh.errors import ArvSshError, ConfigError, UsageError
from arv_ssh.processes import core_dumps
from crunch_sshd import secret_argument

if TYPE_CHECKING:
    from arv_ssh.api.client import ApiClient
    from crunch_sshd.gateway.tunnel import Uplink

DEFAULT_HOST = "127.0.0.1"
"""Where the gateway listens when nothing is said: right for one machine; a node of a cluster names its own address."""

EXAMPLES = """examples:
  crunch-run --gateway-auth-secret file:/run/secret --gateway-address 10.0.0.7 zzzzz-dz642-abcdeabcdeabcde
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, and never repeats a value: it could be a mistyped secret."""

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
    result.add_argument(
        "--gateway-address",
        default=DEFAULT_HOST,
        metavar="HOST[:PORT]",
        help="where the gateway listens (default: %(default)s, any free port)",
    )
    result.add_argument(
        "--gateway-tunnel",
        metavar="URL",
        help="listen nowhere; keep a tunnel open to this controller, for nodes that controllers cannot connect to",
    )
    result.add_argument(
        "--runtime",
        default="auto",
        choices=["auto", "docker", "oci"],
        help="how sessions execute in the container: by the engine's API, by the OCI runtime itself, or what works",
    )
    result.add_argument(
        "--log-dir", type=Path, metavar="DIR", help="write the container's stdout.txt and stderr.txt there"
    )
    result.add_argument(
        "--accept-unsigned-sessions",
        action="store_true",
        help="let a controller in that sends no signed session, as a stock Arvados one",
    )
    result.add_argument(
        "--forwarding",
        default="{}",
        metavar="JSON",
        help="what users may forward: local, remote, unix, agent (true or false), destinations (a list of patterns)",
    )
    result.add_argument(
        "--sessions",
        default="{}",
        metavar="JSON",
        help="options of sessions: AcceptEnv (a list), MaxSessions, Subsystems (name: command in the container)",
    )
    audit_options.add_arguments(result)
    # For the dispatcher and `arv-ssh cluster`, which do not talk to Docker themselves.
    result.add_argument("--clean-up", action="store_true", help=argparse.SUPPRESS)
    result.add_argument("--check-engine", action="store_true", help=argparse.SUPPRESS)
    return result


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
    from setproctitle import setproctitle

    setproctitle(f"crunch-run {options.uuid}")
    _seal_descriptors()
    host, port = split_address(options.gateway_address)
    return _run(options, secret, host, port)


def split_address(text: str) -> tuple[str, int]:
    """Read HOST[:PORT] (an IPv6 address with a port is in brackets); port 0 means any."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        separator, port = (rest[:1], rest[1:]) if closed else ("?", "")
    elif text.count(":") > 1:
        host, separator, port = text, "", ""
    else:
        host, separator, port = text.partition(":")
    if not host or separator not in ("", ":") or (separator and not (port.isdecimal() and int(port) < 65536)):
        raise UsageError(f"--gateway-address {text!r} is not HOST or HOST:PORT")
    return host, int(port or 0)


def api_client(environment: Mapping[str, str]) -> ApiClient:
    """Return a client for the API that ``environment`` names."""
    for name in ("ARVADOS_API_HOST", "ARVADOS_API_TOKEN"):
        if not environment.get(name):
            raise ConfigError(f"{name} is not set; the dispatcher sets it, or export it to run crunch-run by hand")
    from arv_ssh.api.client import ApiClient

    return ApiClient(
        f"https://{environment['ARVADOS_API_HOST']}",
        environment["ARVADOS_API_TOKEN"],
        verify=not _insecure(environment) and (environment.get("SSL_CERT_FILE") or True),
    )


def uplink(url: str | None, environment: Mapping[str, str]) -> Uplink | None:
    """Return the uplink that ``--gateway-tunnel`` asks for; its certificate is checked as the API host's."""
    if not url:
        return None
    from arv_ssh.net.tls import client_context
    from crunch_sshd.gateway import tunnel

    context = client_context(insecure=_insecure(environment), ca_file=environment.get("SSL_CERT_FILE") or None)
    return tunnel.uplink(url, context)


def _insecure(environment: Mapping[str, str]) -> bool:
    return environment.get("ARVADOS_API_HOST_INSECURE", "").lower() in ("1", "t", "true", "y", "yes")


def _seal_descriptors() -> None:
    """Have no child inherit what this process inherited: a dispatcher's lock says that crunch-run itself is alive."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and os.path.exists(f"/proc/self/fd/{name}"):
            os.set_inheritable(int(name), False)


def _run(options: argparse.Namespace, secret: str | None, host: str, port: int) -> int:
    from arv_ssh import log
    from arv_ssh.config import session_options
    from crunch_sshd.forwarding import policy
    from crunch_sshd.ssh import paramiko_doors

    if secret is not None:
        paramiko_doors.check()  # before what opens the doors is imported
    from crunch_sshd.run.container_record import ContainerRecord
    from crunch_sshd.run.events import Events
    from crunch_sshd.run.lifecycle import Lifecycle, Settings

    log.configure()
    events = Events()
    events.listen()
    record = ContainerRecord(api_client(os.environ), options.uuid, events.pause)
    settings = Settings(
        options.uuid,
        secret,
        host,
        port,
        options.log_dir,
        options.accept_unsigned_sessions,
        options.runtime,
        policy.from_json(options.forwarding),
        session_options.from_json(options.sessions),
        audit_options.from_arguments(options),
        uplink(options.gateway_tunnel, os.environ),
    )
    Lifecycle(settings, record, events).run()
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
