"""``arvados-client completion``: the completions of a shell, as scripts/generate made them.

Nothing is generated here: a shell that opens would wait for it. Installed beside, in share/bash-completion and
share/zsh, they need no command at all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import config_templates

FILES = {"bash": "bash-completion/arvados-client", "zsh": "zsh/_arvados-client"}


def run(options: argparse.Namespace) -> int:
    """Print the completions of one shell."""
    path = Path(config_templates.__file__).parent / FILES[options.shell]
    sys.stdout.write(path.read_text(encoding="utf-8"))
    return 0
