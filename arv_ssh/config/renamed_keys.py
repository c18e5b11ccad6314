"""Keys of the config that have a new name and still work under the old one. Pure.

Owns which name counts. Must not know what a value means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arv_ssh.errors import ConfigError


def with_new_names(section: Mapping[str, Any], old_names: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return ``section`` under the new names; ``old_names`` maps each old name to the new one.

    Raises :class:`ConfigError` where a key is given under both names, prefixed with ``where``.
    """
    found = {}
    for key, value in section.items():
        new = old_names.get(key, key)
        if new != key and new in section:
            raise ConfigError(f"{where} has both {new} and {key}, its old name; remove {key}")
        found[new] = value
    return found
