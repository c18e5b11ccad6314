"""Where stock crunch-run is found, and how it is called by its own name.

Owns the list of places. A stock program starts itself again by ``/proc/self/exe`` with a command's name, so it must be
the program itself, named ``crunch-run`` or ``arvados-server``, and no copy under another name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from arv_ssh.errors import ConfigError

NAMES = ("crunch-run", "arvados-server")
PLACES = ("/usr/bin", "/usr/local/bin", "/var/lib/arvados/bin")
"""Directories that are looked into after those of PATH; a relative one there does not count, as for Go's programs."""


def find(given: str, search_path: str) -> Path:
    """Return the program: ``given``, else the first stock one in ``search_path`` and :data:`PLACES`.

    Raises :class:`ConfigError`, naming what was looked for.
    """
    if given:
        if not os.access(given, os.X_OK) or os.path.isdir(given):
            raise ConfigError(f"--stock {given} is not a program; name stock crunch-run or arvados-server")
        return Path(given)
    directories = [*filter(os.path.isabs, search_path.split(os.pathsep)), *PLACES]
    for candidate in (Path(directory, name) for name in NAMES for directory in directories):
        if os.access(candidate, os.X_OK) and candidate.is_file() and not _is_ours(candidate):
            return candidate
    raise ConfigError(
        f"no stock crunch-run was found, nor arvados-server, in PATH and {', '.join(PLACES)}; name it with --stock PATH"
    )


def arguments(program: Path, words: list[str]) -> list[str]:
    """Return the argument vector: ``arvados-server`` takes crunch-run as its first word."""
    command = ["crunch-run"] if program.name.startswith("arvados-server") else []
    return [str(program), *command, *words]


def _is_ours(candidate: Path) -> bool:
    """Say whether this is the ``crunch-run`` of this package: it is beside us, or a script of our Python."""
    if any(candidate.parent.samefile(directory) for directory in _own_directories()):
        return True
    try:
        with candidate.open("rb") as file:
            return file.read(2) == b"#!" and b"python" in file.readline()
    except OSError:
        return False


def _own_directories() -> Iterator[Path]:
    for program in (sys.argv[0], sys.executable):
        if (directory := Path(program).parent).is_dir():
            yield directory
