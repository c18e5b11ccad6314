"""Where the API is and who is asking: the environment, settings.conf, or a file given with --settings.

Owns the precedence of the three. One rule stands over it: a token is sent to no other host than the one it was written
down for. Imports only what ssh-proxy has anyway (no dataclasses, no pathlib: together they cost 40 ms).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from arv_ssh.errors import ConfigError

_KEYS = ("ARVADOS_API_HOST", "ARVADOS_API_TOKEN", "ARVADOS_API_HOST_INSECURE", "SSL_CERT_FILE")
_TRUE = ("1", "t", "true", "y", "yes")
_HOST = re.compile(r"(?:https://)?(?:\[([0-9A-Fa-f:.%]+)\]|([^\s/:@\[\]]+))(?::([0-9]{1,5}))?/?")
_TOKEN = re.compile(r"[!-~]+")
_CLUSTER = re.compile(r"([0-9a-z]{5})-[0-9a-z]{5}-|.+\.([0-9a-z]{5})\.arv")
"""Where a UUID and NAME.zzzzz.arv have the id of their cluster."""
HTTPS_PORT = 443


class Settings:
    """One API host and one user's token for it.

    ``ca_file`` is the value of ``SSL_CERT_FILE``, None for the system's own CAs. ``cluster`` is a cluster's id when
    these settings are of that one alone, else "". ``source`` is where they are from, for people. The token is not part
    of ``repr``.
    """

    cluster = ""
    source = ""

    def __init__(self, host: str, port: int, token: str, *, insecure: bool = False, ca_file: str | None = None) -> None:
        self.host = host
        self.port = port
        self.token = token
        self.insecure = insecure
        self.ca_file = ca_file

    def __repr__(self) -> str:
        return f"Settings({self.authority!r}, insecure={self.insecure}, ca_file={self.ca_file!r})"

    @property
    def authority(self) -> str:
        """The host as HTTP's Host header has it, and as messages name it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == HTTPS_PORT else f"{host}:{self.port}"


def default_file(environ: Mapping[str, str] | None = None) -> str:
    """Return the path of the user's settings.conf."""
    environ = os.environ if environ is None else environ
    return _own_file("settings.conf", environ)


def cluster_file(cluster: str, environ: Mapping[str, str] | None = None) -> str:
    """Return the path of a cluster's own settings, where they would be."""
    return _own_file(f"{cluster}.conf", os.environ if environ is None else environ)


def _cluster_of(target: str, environ: Mapping[str, str]) -> str:
    """Return the id of the cluster that ``target`` is of, when it has settings of its own; else ""."""
    found = _CLUSTER.fullmatch(target) or _CLUSTER.match(target)
    cluster = (found.group(1) or found.group(2)) if found else ""
    return cluster if cluster and os.path.lexists(cluster_file(cluster, environ)) else ""


def _own_file(name: str, environ: Mapping[str, str]) -> str:
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "arvados", name)


def load(
    path: str | None = None, environ: Mapping[str, str] | None = None, target: str = "", *, cluster: str = ""
) -> Settings:
    """Return the settings in force; ``path`` is the file of --settings, ``target`` the UUID or name they are for.

    ``cluster`` is the id of a cluster whose settings are wanted, whatever the target; without ``path`` they must exist.

    Without ``path`` the file of the target's own cluster, ~/.config/arvados/zzzzz.conf, comes before anything else when
    there is one; the environment's token counts only with the same host beside it.

    Without ``path`` the environment comes first and settings.conf fills in what it lacks. With it the file comes first,
    and only the environment's token overrides the file's. In both cases the side that comes second counts only while it
    names no other host. Raise :class:`ConfigError` saying which value is missing or wrong.
    """
    environ = os.environ if environ is None else environ
    ours = {key: environ[key] for key in _KEYS if key in environ}
    own_cluster = cluster or _cluster_of(target, environ)
    if path:
        values = _with_file(_read(path), ours)
        source = path
    elif own_cluster:
        source = cluster_file(own_cluster, environ)
        file = _read(source)
        named = bool(ours.get("ARVADOS_API_HOST"))
        # A token without a host was written down for settings.conf's. The CA file is a matter of the machine.
        values = {"SSL_CERT_FILE": ours.get("SSL_CERT_FILE", ""), **_with_file(file, ours if named else {})}
    else:
        default = default_file(environ)
        values = _with_environment(ours, _read(default) if os.path.lexists(default) else {})
        source = f"the environment and {default}"
    found = _check(values, source)
    found.cluster = own_cluster
    found.source = source
    return found


def _with_file(file: dict[str, str], ours: dict[str, str]) -> dict[str, str]:
    if "ARVADOS_API_TOKEN" in ours and _same_host(ours, file):
        return {**file, "ARVADOS_API_TOKEN": ours["ARVADOS_API_TOKEN"]}
    return file


def _with_environment(ours: dict[str, str], file: dict[str, str]) -> dict[str, str]:
    # A variable that is set but empty counts as set for the token alone, here and above: with
    # `ARVADOS_API_TOKEN= arvados-client …` the user asks for no token at all, not for the file's.
    ours = {key: value for key, value in ours.items() if value or key == "ARVADOS_API_TOKEN"}
    return {**file, **ours} if _same_host(ours, file) else ours


def _same_host(ours: dict[str, str], file: dict[str, str]) -> bool:
    host = ours.get("ARVADOS_API_HOST")
    return not host or host.rstrip("/") == file.get("ARVADOS_API_HOST", "").rstrip("/")


def _read(path: str) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror}; check its path and mode") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the settings file {path} is not UTF-8 text; it should hold lines KEY=VALUE") from error
    values = {}
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.removeprefix("export ").partition("=")
        if not equals:
            # The line is not shown: it may hold a token.
            raise ConfigError(f"line {number} of the settings file {path} is not KEY=VALUE; correct it")
        values[key.strip()] = _unquote(value.strip(), path, number)
    return values


def _unquote(value: str, path: str, number: int) -> str:
    if not value.startswith(("'", '"')):
        return value
    import shlex

    try:
        return "".join(shlex.split(value, comments=True))
    except ValueError as error:
        raise ConfigError(f"line {number} of the settings file {path} has an unclosed quote; correct it") from error


def can_be_resolved(host: str) -> bool:
    """Say whether a name beyond ASCII is one that DNS can carry (RFC 3490); any other the resolver judges."""
    try:
        return host.isascii() or bool(host.encode("idna"))
    except UnicodeError:
        return False


def _check(values: dict[str, str], source: str) -> Settings:
    host = values.get("ARVADOS_API_HOST")
    if not host:
        raise ConfigError(
            f"ARVADOS_API_HOST is not set ({source}); set it and ARVADOS_API_TOKEN, "
            "as Workbench shows them under «Get API token»"
        )
    found = _HOST.fullmatch(host)
    if not found or not 0 < int(found.group(3) or HTTPS_PORT) < 65536 or not can_be_resolved(host):
        raise ConfigError(f"ARVADOS_API_HOST is {host!r}; it should be HOST or HOST:PORT, such as zzzzz.example.org")
    token = values.get("ARVADOS_API_TOKEN")
    if not token:
        raise ConfigError(f"ARVADOS_API_TOKEN is empty ({source}); set it to your token for {host}")
    if not _TOKEN.fullmatch(token):
        raise ConfigError("ARVADOS_API_TOKEN has a space or a control character in it; copy it again")
    return Settings(
        found.group(1) or found.group(2),
        int(found.group(3) or HTTPS_PORT),
        token,
        insecure=values.get("ARVADOS_API_HOST_INSECURE", "").strip().lower() in _TRUE,
        ca_file=values.get("SSL_CERT_FILE") or None,
    )
