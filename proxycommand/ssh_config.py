"""``arvados-client ssh-config``: the block for ~/.ssh/config, from the one template that ``shell`` uses too.

Owns the quoting: ProxyCommand goes through ssh's % expansion and then the user's shell, a file name through ssh's own
quotes and % expansion.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import config_templates
from arv_ssh.errors import UsageError
from proxycommand import arguments, known_hosts

USAGE = (
    "usage: arvados-client ssh-config [--settings FILE] [--known-hosts-dir DIR]"
    " [--output-dir DIR | --install [--dry-run] | --uninstall [--dry-run]]"
)
_COMMAND = "arvados-client"
_INSTALLING = ("--install", "--uninstall", "--dry-run")


def run(argv: list[str]) -> int:
    """Print the block, or write it to ``ssh_config`` in the directory of --output-dir, or install it in ~/.ssh."""
    valued, flags = ("--settings", "--known-hosts-dir", "--output-dir"), ("--help", *_INSTALLING)
    given = arguments.read(argv, valued, flags, usage=USAGE)
    if "--help" in given.flags:
        print(USAGE)
        return 0
    if given.words:
        raise UsageError(f"ssh-config takes no {given.words[0]!r}; {USAGE}")
    output = given.values["--output-dir"]
    _check_together(given.flags, output)
    directory = given.values["--known-hosts-dir"] or (
        os.path.join(output, "known_hosts") if output else known_hosts.cache_dir()
    )
    text = block(given.values["--settings"], directory)
    if given.flags:
        _install(given.flags, text)
    elif output:
        _replace(Path(output, "ssh_config"), text)
    else:
        sys.stdout.write(text)
    return 0


def _check_together(flags: set[str], output: str) -> None:
    if len(flags - {"--dry-run"}) + bool(output) > 1:
        raise UsageError(f"--output-dir, --install and --uninstall exclude each other; {USAGE}")
    if flags == {"--dry-run"}:
        raise UsageError(f"--dry-run goes with --install or --uninstall; {USAGE}")


def _install(flags: set[str], text: str) -> None:
    from proxycommand.ssh_install import SshDirectory

    place, dry_run = SshDirectory(), "--dry-run" in flags
    change = place.uninstall(dry_run=dry_run) if "--uninstall" in flags else place.install(text, dry_run=dry_run)
    if dry_run:
        sys.stdout.write(change)
    else:
        print(f"{place.config} {'changed' if change else 'is as it should be already'}", file=sys.stderr)


def block(settings_file: str, known_hosts_dir: str, detach_keys: str = "") -> str:
    """Return the template filled in with absolute paths; an empty ``settings_file`` means the user's own settings."""
    directory = os.path.abspath(known_hosts_dir)
    command = [*own_command(), "ssh-proxy"]
    if settings_file:
        command += ["--settings", os.path.abspath(settings_file)]
    command += ["--known-hosts-dir", directory]
    if detach_keys:
        command += ["--detach-keys", detach_keys]
    # In quotes, for the login name is the user's text and goes through a shell.
    proxy = " ".join(shlex.quote(word).replace("%", "%%") for word in command) + " --user '%r' '%h'"
    template = Path(config_templates.__file__).with_name("ssh_config").read_text(encoding="utf-8")
    return template.replace("@PROXY_COMMAND@", proxy).replace("@KNOWN_HOSTS_FILE@", _quoted(directory, "%h"))


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
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
