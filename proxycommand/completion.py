"""``arvados-client completion``: the completions of a shell, as scripts/generate made them.

Nothing is generated here, so that opening a terminal imports no parser. Installed beside, in share/bash-completion and
share/zsh, they need no command at all.
"""

from __future__ import annotations

import sys
from pathlib import Path

import config_templates
from arv_ssh.errors import UsageError
from proxycommand import arguments

USAGE = "usage: arvados-client completion bash|zsh"
FILES = {"bash": "bash-completion/arvados-client", "zsh": "zsh/_arvados-client"}


def run(argv: list[str]) -> int:
    """Print the completions of one shell."""
    given = arguments.read(argv, (), ("--help",), usage=USAGE)
    if given.flags:
        print(USAGE)
        return 0
    if len(given.words) != 1 or given.words[0] not in FILES:
        raise UsageError(f"completion needs bash or zsh, not {' '.join(given.words) or 'nothing'!r}; {USAGE}")
    path = Path(config_templates.__file__).parent / FILES[given.words[0]]
    sys.stdout.write(path.read_text(encoding="utf-8"))
    return 0
