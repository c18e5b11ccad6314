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

USAGE = "usage: arvados-client ssh-config [--settings FILE] [--known-hosts-dir DIR] [--output-dir DIR]"
_COMMAND = "arvados-client"


def run(argv: list[str]) -> int:
    """Print the block, or write it to ``ssh_config`` in the directory of --output-dir."""
    given = arguments.read(argv, ("--settings", "--known-hosts-dir", "--output-dir"), ("--help",), usage=USAGE)
    if given.flags:
        print(USAGE)
        return 0
    if given.words:
        raise UsageError(f"ssh-config takes no {given.words[0]!r}; {USAGE}")
    output = given.values["--output-dir"]
    directory = given.values["--known-hosts-dir"] or (
        os.path.join(output, "known_hosts") if output else known_hosts.cache_dir()
    )
    text = block(given.values["--settings"], directory)
    if output:
        _replace(Path(output, "ssh_config"), text)
    else:
        sys.stdout.write(text)
    return 0


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
