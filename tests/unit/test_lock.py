"""requirements.lock: what pyproject.toml asks for, pinned and with hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"^(?P<pin>[a-z0-9._-]+==\S+)(?: ; .+)? \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", re.M)
DEPLOYED = ("controller", "node", "embedded", "postgresql")


def pins() -> dict[str, str]:
    """Return the locked versions by canonical name; only those that have hashes."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found = [Requirement(pin.group("pin")) for pin in PIN.finditer(text)]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in found}


def test_every_line_has_hashes() -> None:
    """Each package of the lock is pinned to one version and has hashes: pip refuses a file in which one lacks them."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert sorted(pins()) == re.findall(r"^([a-z0-9._-]+)", text, re.M)


def test_the_lock_satisfies_pyproject() -> None:
    """Each package that the client or an extra needs is locked, at a version in its range; else run scripts/lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    locked = pins()
    for requirement in map(Requirement, sum((extras[name] for name in DEPLOYED), project["dependencies"])):
        if requirement.name != project["name"]:
            version = locked.get(canonicalize_name(requirement.name))
            assert version and requirement.specifier.contains(version), f"{requirement}: locked is {version}"
