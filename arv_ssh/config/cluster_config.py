"""A cluster's config, read from a file with the keys of Arvados' own ``config.yml``.

Owns the reading and checking of that file; does not know who uses a value. Unknown keys are left alone: a stock file of
a real cluster is read as it stands. Secrets are kept out of ``repr``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from arv_ssh.audit.options import (
    AUDIT_DIRECTORY,
    AUDIT_MODES,
    RECORDING_DIRECTORY,
    RECORDING_MODES,
    Auditing,
)
from arv_ssh.config import (
    byte_size,
    container_logs,
    destination,
    exported_config,
    session_options,
    slurm_options,
    web_services,
)
from arv_ssh.config.container_logs import ContainerLogs
from arv_ssh.config.renamed_keys import with_new_names
from arv_ssh.config.session_options import SessionOptions
from arv_ssh.config.slurm_options import SlurmOptions
from arv_ssh.config.web_services import WebServices
from arv_ssh.errors import ConfigError

MODES = ("disabled", "default-off", "default-on")
MAX_GATEWAY_TUNNELS = 1000
"""The default of stock Arvados' ``API.MaxGatewayTunnels``."""
GATEWAY_MEMORY = 512 << 20
"""Bytes: the 60 MB of an idle gateway, and room for some hundred sessions."""
LEAST_GATEWAY_MEMORY = 128 << 20
DRAIN_TIMEOUT = 3600.0
"""Seconds that a stopping controller keeps its sessions; an hour is longer than most sessions."""


@dataclass(frozen=True)
class ShellAccess:
    """``Containers.ShellAccess``: who may enter a container."""

    mode: str
    admin: bool
    user: bool


@dataclass(frozen=True)
class ForwardingOptions:
    """``Containers.ShellAccess.Forwarding``: the kinds of SSH forwarding that users have, and where it may connect to.

    ``destinations`` are checked patterns (:mod:`arv_ssh.config.destination`), as they were written.
    """

    local: bool = True
    remote: bool = True
    unix: bool = True
    agent: bool = True
    destinations: tuple[str, ...] = ("*",)


@dataclass(frozen=True)
class Limits:
    """``Containers.ShellAccess.Limits``: SSH connections open at once; 0 means no limit."""

    per_user: int = 0
    per_container: int = 0
    per_controller: int = 0


@dataclass(frozen=True)
class ClusterConfig:
    """One cluster of a config file.

    ``api`` is the base URL of the API to ask, or None when this process serves the embedded API from ``database``
    (an SQLAlchemy URL, which may hold a password). ``run_directory`` is where this host's controllers meet, None for a
    default; ``drain_timeout`` and ``hold_on_failure`` are in seconds. ``exported`` is what an API shows of the config.
    """

    cluster_id: str
    system_root_token: str = field(repr=False)
    management_token: str = field(repr=False)
    controller_url: str
    internal_urls: tuple[str, ...]
    tls_certificate: Path | None
    tls_key: Path | None
    shell_access: ShellAccess
    api: str | None
    database: str | None = field(repr=False)
    api_insecure: bool = False
    dispatch_poll_interval: float = 10.0
    gateway_tunnel: str = ""
    max_dispatch_attempts: int = 5
    forwarding: ForwardingOptions = ForwardingOptions()
    sessions: SessionOptions = field(default_factory=SessionOptions)
    limits: Limits = Limits()
    auditing: Auditing = Auditing()
    max_gateway_tunnels: int = MAX_GATEWAY_TUNNELS
    run_directory: Path | None = None
    drain_timeout: float = DRAIN_TIMEOUT
    pass_through: bool = False
    gateway_memory: int = GATEWAY_MEMORY
    hold_on_failure: float = 0.0
    container_init: bool = True
    web_services: WebServices = WebServices()
    container_logs: ContainerLogs = ContainerLogs()
    keepstores: tuple[str, ...] = ()
    keepproxies: tuple[str, ...] = ()
    exported: dict[str, Any] = field(default_factory=dict, repr=False)
    slurm: SlurmOptions = field(default_factory=SlurmOptions)


def load(path: Path, cluster_id: str | None = None, *, overlays: Sequence[Path] = (), api: str = "") -> ClusterConfig:
    """Read the config file at ``path``; without ``cluster_id`` it must hold exactly one cluster.

    ``overlays`` are files of the same form whose keys override it, so that a stock file stays as it is. ``api`` is the
    base URL of the API to ask, whatever the files say.
    """
    document = _document(path)
    for overlay in overlays:
        document = exported_config.merged(document, _document(overlay))
    clusters = document.get("Clusters")
    if not isinstance(clusters, dict) or not clusters:
        raise ConfigError(f"the cluster config {path} has no Clusters section")
    if cluster_id is None:
        if len(clusters) > 1:
            raise ConfigError(f"the cluster config {path} has {len(clusters)} clusters; name one with --cluster")
        cluster_id = str(next(iter(clusters)))
    if not isinstance(clusters.get(cluster_id), dict):
        raise ConfigError(f"the cluster config {path} has no cluster {cluster_id}")
    cluster = parse(cluster_id, clusters[cluster_id])
    return replace(cluster, api=_url(api, "--api")) if api else cluster


def _document(path: Path) -> dict[str, Any]:
    import yaml  # late, so that a program can first say which extra it lacks

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the cluster config {path}: {error.strerror}; name it with --config") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the cluster config {path} is not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the cluster config {path} is not valid YAML: {' '.join(str(error).split())}") from error
    except (ValueError, RecursionError) as error:  # a date with a 13th month; brackets in a thousand brackets
        raise ConfigError(f"the cluster config {path} has a value that cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"the cluster config {path} has no Clusters section")
    return document


def parse(cluster_id: str, section: dict[str, Any]) -> ClusterConfig:
    """Read one cluster's section; raise :class:`ConfigError` naming the key that is missing or wrong."""
    where = f"Clusters.{cluster_id}"
    root_token = section.get("SystemRootToken")
    if not isinstance(root_token, str) or not root_token:
        raise ConfigError(f"{where}.SystemRootToken is empty; set it to the cluster's root token")
    services = _section(section, "Services", where)
    controller = _section(services, "Controller", f"{where}.Services")
    controller_url = str(controller.get("ExternalURL") or "").rstrip("/")
    internal_urls = _section(controller, "InternalURLs", f"{where}.Services.Controller")
    tls = _section(section, "TLS", where)
    containers = _section(section, "Containers", where)
    access = _section(containers, "ShellAccess", f"{where}.Containers")
    embedded = _section(section, "EmbeddedAPI", where)
    api = section.get("API")
    local = _section(containers, "LocalDispatch", f"{where}.Containers")
    slurm = _section(containers, "SLURM", f"{where}.Containers")
    return ClusterConfig(
        cluster_id=cluster_id,
        system_root_token=root_token,
        management_token=str(section.get("ManagementToken") or ""),
        controller_url=controller_url,
        internal_urls=tuple(url.rstrip("/") for url in internal_urls),
        tls_certificate=_file(tls, "Certificate", where),
        tls_key=_file(tls, "Key", where),
        shell_access=_shell_access(access, where),
        sessions=session_options.parse(
            _section(access, "Sessions", f"{where}.Containers.ShellAccess"), f"{where}.Containers.ShellAccess.Sessions"
        ),
        forwarding=_forwarding(_section(access, "Forwarding", f"{where}.Containers.ShellAccess"), where),
        # In a stock file API is a section of request limits; a URL there names another host's API to ask.
        api=_url(api, f"{where}.API") if isinstance(api, str) else None,
        database=str(embedded["Database"]) if "Database" in embedded else None,
        api_insecure=_flag(tls, "Insecure", f"{where}.TLS"),
        dispatch_poll_interval=_positive(local, "PollInterval", 10.0, f"{where}.Containers.LocalDispatch"),
        gateway_tunnel=_tunnel(local, controller_url, f"{where}.Containers.LocalDispatch"),
        container_init=_flag(local, "ContainerInit", f"{where}.Containers.LocalDispatch", default=True),
        container_logs=container_logs.parse(local, f"{where}.Containers.LocalDispatch"),
        web_services=web_services.parse(
            _section(services, "ContainerWebServices", f"{where}.Services"), f"{where}.Services.ContainerWebServices",
            controller_url,
        ),
        max_dispatch_attempts=int(_positive(containers, "MaxDispatchAttempts", 5, f"{where}.Containers")),
        limits=_limits(_section(access, "Limits", f"{where}.Containers.ShellAccess"), where),
        auditing=_auditing(access, f"{where}.Containers.ShellAccess"),
        run_directory=(
            _directory(access, "RunDirectory", "", f"{where}.Containers.ShellAccess")
            if "RunDirectory" in access else None
        ),
        drain_timeout=_seconds(access, "DrainTimeout", DRAIN_TIMEOUT, f"{where}.Containers.ShellAccess"),
        max_gateway_tunnels=_count(
            api if isinstance(api, dict) else {}, "MaxGatewayTunnels", f"{where}.API", MAX_GATEWAY_TUNNELS
        ),
        pass_through=_flag(section, "PassThrough", where),
        gateway_memory=_gateway_memory(access, f"{where}.Containers.ShellAccess"),
        hold_on_failure=_seconds(access, "HoldOnFailure", 0.0, f"{where}.Containers.ShellAccess"),
        keepstores=_service_urls(services, "Keepstore", "InternalURLs", where),
        keepproxies=_service_urls(services, "Keepproxy", "ExternalURL", where),
        exported=exported_config.export(cluster_id, section),
        slurm=slurm_options.parse(
            containers, slurm, f"{where}.Containers",
            poll_interval=_positive(slurm, "PollInterval", 10.0, f"{where}.Containers.SLURM"),
            gateway_tunnel=_tunnel(slurm, controller_url, f"{where}.Containers.SLURM"),
        ),
    )


def _service_urls(services: dict[str, Any], name: str, key: str, where: str) -> tuple[str, ...]:
    """Read a service's URLs: a section whose keys they are, or the one that is its text."""
    service = _section(services, name, f"{where}.Services")
    value = service.get(key) or ()
    return tuple(_url(url, f"{where}.Services.{name}.{key}") for url in ([value] if isinstance(value, str) else value))


def _section(parent: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}.{key} should be a section of keys, not {value!r}")
    return value


def _flag(section: dict[str, Any], key: str, where: str, default: bool = False) -> bool:
    value = section.get(key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{where}.{key} is {value!r}; it must be true or false")
    return value


def _positive(section: dict[str, Any], key: str, default: float, where: str) -> float:
    value = section.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigError(f"{where}.{key} is {value!r}; it must be a number above 0")
    return float(value)


def _seconds(section: dict[str, Any], key: str, default: float, where: str) -> float:
    value = section.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ConfigError(f"{where}.{key} is {value!r}; it must be a number of seconds from 0")
    return float(value)


def _count(section: dict[str, Any], key: str, where: str, default: int = 0) -> int:
    value = section.get(key, default)
    if type(value) is not int or value < 0:
        raise ConfigError(f"{where}.{key} is {value!r}; it must be a whole number from 0")
    return value


def _gateway_memory(access: dict[str, Any], where: str) -> int:
    value = access.get("GatewayMemory", GATEWAY_MEMORY)
    try:
        size = byte_size.parse(value)
    except ValueError:
        size = 0
    if size < LEAST_GATEWAY_MEMORY:
        raise ConfigError(f"{where}.GatewayMemory is {value!r}; it must be a size of at least 128MiB, such as 512MiB")
    return size


def _limits(section: dict[str, Any], where: str) -> Limits:
    where = f"{where}.Containers.ShellAccess.Limits"
    keys = ("ConnectionsPerUser", "ConnectionsPerContainer", "ConnectionsPerController")
    section = with_new_names(section, {key.replace("Connections", "Sessions"): key for key in keys}, where)
    if unknown := sorted(set(map(str, section)) - set(keys)):
        raise ConfigError(f"{where} has no key {unknown[0]}; its keys are {', '.join(keys)}")
    return Limits(*(_count(section, key, where) for key in keys))


def _auditing(access: dict[str, Any], where: str) -> Auditing:
    return Auditing(
        audit=_word(access, "Audit", AUDIT_MODES, where),
        audit_directory=_directory(access, "AuditDirectory", AUDIT_DIRECTORY, where),
        recording=_word(access, "Recording", RECORDING_MODES, where),
        recording_directory=_directory(access, "RecordingDirectory", RECORDING_DIRECTORY, where),
    )


def _word(section: dict[str, Any], key: str, words: tuple[str, ...], where: str) -> str:
    value = section.get(key, "off")
    if isinstance(value, bool):  # YAML reads a bare on or off as a truth value
        value = "on" if value else "off"
    if value not in words:
        raise ConfigError(f"{where}.{key} is {value!r}; it must be one of {', '.join(words)}")
    return str(value)


def _directory(section: dict[str, Any], key: str, default: str, where: str) -> Path:
    value = section.get(key, default)
    if not isinstance(value, str) or not value.startswith("/"):
        raise ConfigError(f"{where}.{key} is {value!r}; it must be an absolute path")
    return Path(value)


def _url(value: str, where: str) -> str:
    try:
        parts = urlsplit(value)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{where} is {value!r}; it must be a URL such as https://zzzzz.example.org")
    return value.rstrip("/")


def _tunnel(local: dict[str, Any], controller_url: str, where: str) -> str:
    """Read ``GatewayTunnel``: a controller's URL, or true for the cluster's own."""
    value = local.get("GatewayTunnel", False)
    if value is False:
        return ""
    url = controller_url if value is True else value
    if not isinstance(url, str) or not url.startswith("https://"):
        raise ConfigError(
            f"{where}.GatewayTunnel is {value!r}; it must be true (and Services.Controller.ExternalURL an https URL), "
            "false, or the https URL of a controller"
        )
    return _url(url, f"{where}.GatewayTunnel")


def _file(tls: dict[str, Any], key: str, where: str) -> Path | None:
    value = tls.get(key)
    if not value:
        return None
    # Arvados writes file:///path; a PEM text or an "acme:" value is for another program.
    text = str(value).removeprefix("file://")
    if not text.startswith("/"):
        raise ConfigError(f"{where}.TLS.{key} must be file:///path/to/{key.lower()}.pem")
    return Path(text)


def _shell_access(section: dict[str, Any], where: str) -> ShellAccess:
    where = f"{where}.Containers.ShellAccess"
    admin, user = _flag(section, "Admin", where), _flag(section, "User", where)
    mode = section.get("Mode")
    if mode is None:
        mode = "default-on" if admin or user else "disabled"
    if mode not in MODES:
        raise ConfigError(f"{where}.Mode is {mode!r}; it must be one of {', '.join(MODES)}")
    return ShellAccess(mode=mode, admin=admin, user=user)


def _forwarding(section: dict[str, Any], where: str) -> ForwardingOptions:
    where = f"{where}.Containers.ShellAccess.Forwarding"
    kinds = {key.lower(): _flag(section, key, where, default=True) for key in ("Local", "Remote", "Unix", "Agent")}
    patterns = section.get("Destinations", ["*"])
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise ConfigError(f"{where}.Destinations is {patterns!r}; it must be a list of patterns such as 10.0.0.0/8:443")
    for pattern in patterns:
        try:
            destination.parse(pattern)
        except ConfigError as error:
            raise ConfigError(f"{where}.Destinations: {error}") from error
    return ForwardingOptions(**kinds, destinations=tuple(patterns))
