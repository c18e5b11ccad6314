"""``arvados-client ssh-config``: the block for ~/.ssh/config, from the one template that ``shell`` uses too.

Owns the quoting: ProxyCommand goes through ssh's % expansion and then the user's shell, a file name through ssh's own
quotes and % expansion.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from pathlib import Path

import config_templates
from arv_ssh.client.controller import Controller
from arv_ssh.client.messages import tell
from arv_ssh.errors import ArvSshError, UsageError
from arv_ssh.resume.negotiation import DEFAULT_RESUME_FOR
from proxycommand import host_names, known_hosts
from proxycommand.arguments import read_resume_for

_COMMAND = "arvados-client"

ALIVE_INTERVAL, LEAST_ALIVE_COUNT = 30, 4
"""Seconds between ssh's keepalives, and how many may go unanswered where nothing brings a connection back."""

NEEDED_OPENSSH = "8.4"
"""The first version that knows %h in UserKnownHostsFile; an older one takes it as part of the file's name."""

LONGEST_CONTROL_DIRECTORY = 103 - len("/") - 40 - len(".0123456789abcdef")
"""Bytes of a control socket's directory: macOS takes 103 for a socket's path; ssh adds a hash of 40 and, while it makes
the socket, a suffix of 17. Linux takes 4 more."""


def run(options: argparse.Namespace) -> int:
    """Print the block, or write it to ``ssh_config`` in the directory of --output-dir, or install it in ~/.ssh."""
    installing = options.install or options.uninstall
    if options.dry_run and not installing:
        raise UsageError("--dry-run needs --install or --uninstall; see arvados-client ssh-config --help")
    text = _text(options)
    if installing:
        _install(options, text)
    elif options.output_dir:
        _replace(Path(options.output_dir, "ssh_config"), text)
    else:
        sys.stdout.write(text)
    return 0


def _text(options: argparse.Namespace) -> str:
    output = options.output_dir
    directory = options.known_hosts_dir or (
        os.path.join(output, "known_hosts") if output else known_hosts.cache_dir()
    )
    control_dir = "" if options.no_control_master else known_hosts.cache_dir("cm")
    names = _fill("ssh_config_host_names", {"@HOST_NAMES@": _unquoted(host_names.directory(), "*.conf")})
    resume_for = read_resume_for(options.resume_for)
    return names + block(
        options.settings, directory, cluster=options.cluster, control_dir=control_dir, wait=options.wait,
        resume_for=resume_for,
    )  # fmt: skip


def _install(options: argparse.Namespace, text: str) -> None:
    from proxycommand.ssh_install import SshDirectory, read_by_ssh

    place, dry_run = SshDirectory(cluster=options.cluster), options.dry_run
    change = place.uninstall(dry_run=dry_run) if options.uninstall else place.install(text, dry_run=dry_run)
    if dry_run:
        sys.stdout.write(change)
    else:
        print(f"{place.config} {'changed' if change else 'is already up to date'}", file=sys.stderr)
    if not read_by_ssh(place.directory):
        tell(f"ssh does not read {place.config}: HOME is not this account's home; use ssh -F {place.config}")
    if options.install and not dry_run:
        _complete_names(options.settings, options.cluster)


def _complete_names(settings_file: str, cluster: str) -> None:
    """Let shells complete the running containers; report at once when the settings do not lead to a cluster yet."""
    from arv_ssh.client import settings
    from proxycommand import ls

    try:
        count = len(ls.rows(Controller(settings.load(settings_file, cluster=cluster))))
    except ArvSshError as error:
        tell(f"the block is installed, but there are no host names to complete yet: {error}")
    else:
        print(f"host names to complete: {count} (arvados-client ls updates them)", file=sys.stderr)


def block(
    settings_file: str,
    known_hosts_dir: str,
    detach_keys: str = "",
    *,
    cluster: str = "",
    control_dir: str = "",
    wait: bool = False,
    host: str = "",
    resume_for: int = DEFAULT_RESUME_FOR,
) -> str:
    """Return the template filled in with absolute paths; an empty ``settings_file`` means the user's own settings.

    ``cluster`` limits the block to that cluster's containers. Without ``control_dir``, where ssh's control sockets are,
    connections are not shared. ``wait`` lets ssh wait for containers that are still in the queue. ``host`` makes it a
    block for that one alone, which older versions of OpenSSH understand too. ``resume_for`` is how many seconds
    ssh-proxy tries to bring a lost connection back, and ssh waits for that.
    """
    directory = os.path.abspath(known_hosts_dir)
    hosts = _hosts(cluster)
    command = [*own_command(), "ssh-proxy"]
    if settings_file:
        command += ["--settings", os.path.abspath(settings_file)]
    command += ["--known-hosts-dir", directory]
    if cluster:
        command += ["--cluster", cluster]
    if not host:
        command += ["--needs-openssh", NEEDED_OPENSSH]
    if detach_keys:
        command += ["--detach-keys", detach_keys]
    if wait:
        command.append("--wait")
    if not resume_for:
        command.append("--no-resume")
    elif resume_for != DEFAULT_RESUME_FOR:
        command += ["--resume-for", str(resume_for)]
    control_master = _control_master(control_dir, hosts) if control_dir else ""
    if control_master:
        command += ["--control-dir", os.path.abspath(control_dir)]
    # In quotes, because the login name is the user's text and goes through a shell.
    proxy = " ".join(shlex.quote(word).replace("%", "%%") for word in command) + " --user '%r' '%h'"
    filled = {
        "@CONTROL_MASTER@\n": control_master,
        "@HOSTS@": " ".join(hosts),
        "@PROXY_COMMAND@": proxy,
        "@KNOWN_HOSTS_FILE@": _quoted(directory, host or "%h"),
        "@ALIVE_COUNT@": str(alive_count(resume_for)),
    }
    return _fill("ssh_config", filled)


def alive_count(resume_for: int) -> int:
    """Return how many of ssh's keepalives must go unanswered, so that it outlasts ``resume_for`` seconds."""
    return LEAST_ALIVE_COUNT + -(-resume_for // ALIVE_INTERVAL)


def _hosts(cluster: str) -> list[str]:
    return [f"{cluster or '*'}-dz642-*", f"{cluster or '*'}-xvhdp-*", f"*.{cluster}.arv" if cluster else "*.arv"]


def _control_master(directory: str, hosts: list[str]) -> str:
    directory = os.path.abspath(directory)
    if len(os.fsencode(directory)) > LONGEST_CONTROL_DIRECTORY:
        return f"# No shared connections: names of sockets in {directory} would be too long for the system.\n"
    # A pipe of ssh's is found again through /proc, a terminal anywhere.
    arrive = "test -t 2 -o -p /dev/fd/2" if sys.platform == "linux" else "test -t 2"
    filled = {
        "@HOSTS@": " ".join(hosts),
        "@HOST_LIST@": ",".join(hosts),
        "@MESSAGES_ARRIVE@": arrive,
        "@CONTROL_PATH@": _quoted(directory, "%C"),
    }
    return _fill("ssh_config_control_master", filled)


def _unquoted(directory: str, name: str) -> str:
    """Return the path, quoted only if necessary: shell completion of host names cannot read quoted paths."""
    return _quoted(directory, name) if re.search(r"[\s\"\\%]", directory) else f"{directory}/{name}"


def _fill(template: str, values: dict[str, str]) -> str:
    text = Path(config_templates.__file__).with_name(template).read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def options(text: str) -> list[str]:
    """Return the block's settings as command-line options of ssh."""
    lines = (line.strip() for line in text.splitlines())
    settings = [line for line in lines if line and not line.startswith(("#", "Host "))]
    return [word for line in settings for word in ("-o", line)]


def own_command() -> list[str]:
    """Return how to start this program again, from anywhere."""
    for path in (sys.argv[0], os.path.join(os.path.dirname(sys.executable), _COMMAND)):
        if os.path.basename(path) == _COMMAND and os.access(path, os.X_OK):
            return [os.path.abspath(path)]
    return [sys.executable, "-m", "proxycommand"]


def _quoted(directory: str, name: str) -> str:
    escaped = directory.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}/{name}"'


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ArvSshError(
            f"cannot write {path}: {error.strerror}; create its directory first, or name another"
        ) from error
