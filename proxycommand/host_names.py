"""The names that a shell completes after ``ssh``: one small ssh_config of ``Host`` lines for each API host.

The completion of host names in bash and zsh reads ``Host`` lines, through ``Include`` too, so a shell needs no
installation. ``arvados-client ls`` writes the file anew. Owns the file, which contains nothing that ssh would act on.
"""

from __future__ import annotations

import os
import re
from typing import Any

from arv_ssh import uuids
from proxycommand import known_hosts

_NOT_IN_HOST_NAMES = re.compile(r"[^A-Za-z0-9._-]")
"""Characters that could not be typed in a host name, or would be read as ssh_config; NAME.arv takes ``_`` in their
place."""
LONGEST_NAME = 200
"""Characters of a name that are offered; ssh takes 1,024, and a name may be abbreviated anyway."""


def directory() -> str:
    """Return the directory of the files, which the generated block includes."""
    return known_hosts.cache_dir("hosts")


def remember(authority: str, rows: list[dict[str, Any]]) -> None:
    """From now on complete only the containers of ``rows`` among those of the API host ``authority``.

    This is a cache: ``ls`` works on a full or read-only disk too.
    """
    lines = [_line(row) for row in rows if row["shell"] != "refused" and uuids.is_container(row["uuid"])]
    name = re.sub(r"[^A-Za-z0-9.-]", "_", authority)
    try:
        known_hosts.make_private(directory())
        _replace(os.path.join(directory(), f"{name}.conf"), "".join(lines))
    except OSError:
        return


def _line(row: dict[str, Any]) -> str:
    request, name = row["container_request_uuid"], row["name"]
    names = [row["uuid"]]
    if isinstance(request, str) and uuids.is_container_request(request):
        names.append(request)
    if isinstance(name, str) and name[:1].isalnum():
        names.append(f"{_NOT_IN_HOST_NAMES.sub('_', name[:LONGEST_NAME])}.arv")
    return f"Host {' '.join(names)}\n"


def _replace(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="ascii") as file:
        file.write(text)
    os.replace(temporary, path)
