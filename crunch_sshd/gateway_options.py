"""The options of a gateway that ``crunch-run`` and ``crunch-sshd`` share, and how they reach the gateway's process.

Owns their command line, their checks, and the one JSON form in which crunch-run hands them on. The secret is not among
them. Imports are few: both programs read their command line before anything slow.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arv_ssh.audit import options as audit_options
from arv_ssh.audit.options import Auditing
from arv_ssh.config import byte_size, session_options
from arv_ssh.config.cluster_config import GATEWAY_MEMORY, LEAST_GATEWAY_MEMORY
from arv_ssh.errors import UsageError
from crunch_sshd.forwarding import policy

if TYPE_CHECKING:
    from crunch_sshd.gateway.tunnel import Uplink

DEFAULT_HOST = "127.0.0.1"
"""Where the gateway listens by default: right for one machine; a node of a cluster names its own address."""


@dataclass(frozen=True, kw_only=True)
class GatewayOptions:
    """How a gateway is to serve. ``port`` 0 is any free one; ``tunnel`` "" means that it listens.

    ``forwarding`` and ``sessions`` are the JSON texts of their options, checked. ``memory`` is in bytes. The files in
    ``log_directory`` are served as the container's logs, unless it is "".
    """

    host: str = DEFAULT_HOST
    port: int = 0
    tunnel: str = ""
    runtime: str = "auto"
    accept_unsigned_sessions: bool = False
    forwarding: str = "{}"
    sessions: str = "{}"
    auditing: Auditing = Auditing()
    memory: int = GATEWAY_MEMORY
    log_directory: str = ""

    def to_fields(self) -> dict[str, Any]:
        """Return the options in the form that :meth:`from_fields` reads, using only JSON's types."""
        return asdict(self) | {"auditing": {name: str(value) for name, value in asdict(self.auditing).items()}}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> GatewayOptions:
        """Read what :meth:`to_fields` wrote."""
        words = fields["auditing"]
        directories = {name: Path(words[name]) for name in ("audit_directory", "recording_directory")}
        return cls(**{**fields, "auditing": Auditing(**{**words, **directories})})


def add_arguments(
    parser: argparse.ArgumentParser, runtimes: Sequence[str], logs: str | None, address: str | None = DEFAULT_HOST
) -> None:
    """Add the options to ``parser``; ``runtimes`` are those that the program can use, ``logs`` its use of log files.

    ``logs`` None means that it serves none of its own; ``address`` None, that a dispatcher names one.
    """
    parser.add_argument(
        "--gateway-address",
        default=address,
        metavar="HOST[:PORT]",
        help=f"where the gateway listens (default: {address or 'where the dispatcher expects it'}, any free port)",
    )
    parser.add_argument(
        "--gateway-tunnel",
        metavar="URL",
        help="listen nowhere; keep a tunnel open to this controller, for nodes that controllers cannot connect to",
    )
    parser.add_argument(
        "--gateway-memory",
        default="512MiB",
        metavar="SIZE",
        help="memory the gateway may use: it refuses new sessions before it has that much (default: %(default)s)",
    )
    parser.add_argument(
        "--runtime",
        default="auto",
        choices=runtimes,
        help="how sessions execute in the container: by the engine's API, by the OCI runtime itself, or what works",
    )
    parser.add_argument(
        "--accept-unsigned-sessions",
        action="store_true",
        help="let a controller in that sends no signed session, as a stock Arvados one",
    )
    parser.add_argument(
        "--forwarding",
        default="{}",
        metavar="JSON",
        help="what users may forward: local, remote, unix, agent (true or false), destinations (a list of patterns)",
    )
    parser.add_argument(
        "--sessions",
        default="{}",
        metavar="JSON",
        help="options of sessions: AcceptEnv (a list), MaxSessionChannels, Subsystems (name: command in the "
        "container), Algorithms (modern or compatible), WorkingDirectory (container or home), ResumeFor (seconds)",
    )
    if logs is None:
        parser.set_defaults(log_dir=None)
    else:
        parser.add_argument("--log-dir", type=Path, metavar="DIR", help=logs)
    audit_options.add_arguments(parser)


def from_arguments(options: argparse.Namespace) -> GatewayOptions:
    """Return the parsed options of :func:`add_arguments`; raise an error with one sentence where they make no sense.

    The tunnel's URL is checked by :func:`uplink`.
    """
    host, port = split_address(options.gateway_address)
    policy.from_json(options.forwarding)
    session_options.from_json(options.sessions)
    return GatewayOptions(
        host=host,
        port=port,
        tunnel=options.gateway_tunnel or "",
        runtime=options.runtime,
        accept_unsigned_sessions=options.accept_unsigned_sessions,
        forwarding=options.forwarding,
        sessions=options.sessions,
        auditing=audit_options.from_arguments(options),
        memory=_memory(options.gateway_memory),
        log_directory=str(options.log_dir.absolute()) if options.log_dir else "",
    )


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


def _memory(text: str) -> int:
    try:
        size = byte_size.parse(text)
    except ValueError:
        size = 0
    if size < LEAST_GATEWAY_MEMORY:
        raise UsageError(f"--gateway-memory {text!r} is not a size of at least 128MiB, such as 512MiB")
    return size


def uplink(url: str, environment: Mapping[str, str]) -> Uplink | None:
    """Return the uplink that ``--gateway-tunnel`` asks for; its certificate is checked like the API host's."""
    if not url:
        return None
    from arv_ssh.net.tls import client_context
    from crunch_sshd.gateway import tunnel

    context = client_context(insecure=is_insecure(environment), ca_file=environment.get("SSL_CERT_FILE") or None)
    return tunnel.uplink(url, context)


def is_insecure(environment: Mapping[str, str]) -> bool:
    """Say whether the environment asks not to check the API host's certificate, as Arvados' own programs read it."""
    return environment.get("ARVADOS_API_HOST_INSECURE", "").lower() in ("1", "t", "true", "y", "yes")
