"""The extras: their table and pyproject.toml say the same, and every package that is imported is in one of them."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from arv_ssh import extras
from arv_ssh.errors import ConfigError
from tests.unit.test_imports import PACKAGES, imports, modules, tops

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CLIENT = {"paramiko", "requests", "sshtunnel", "h11", "cryptography"}


def packages(extra: str) -> set[str]:
    """Return the canonical names of what an extra of pyproject.toml installs, those of the extras in it too."""
    found: set[str] = set()
    for line in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            found |= set().union(*map(packages, requirement.extras))
        else:
            found.add(canonicalize_name(requirement.name))
    return found


@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_the_table(extra: str) -> None:
    """The table's packages are those of pyproject.toml."""
    assert {canonicalize_name(name) for name in extras.EXTRAS[extra]} == packages(extra)


def test_what_is_imported() -> None:
    """Our sources import nothing but what is installed for them; the client's modules, nothing of an extra."""
    known = {module for table in extras.EXTRAS.values() for module in table.values()}
    others = set(sys.stdlib_module_names) | set(PACKAGES) | {"urllib3"}  # comes with requests
    for name, path in modules().items():
        client = name.startswith(("proxycommand", "arv_ssh.client"))
        assert tops(imports(path)) - others - CLIENT - (set() if client else known) == set(), name


def test_the_client_is_small() -> None:
    """Without an extra, what is installed is what the client imports."""
    assert {Requirement(line).name for line in PROJECT["dependencies"]} == CLIENT


def test_nothing_is_missing() -> None:
    """With all packages installed, nothing is said."""
    for extra in extras.EXTRAS:
        extras.require("a program", extra)


def test_a_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named, and the extra that brings it; of packages that are named, only they count."""
    monkeypatch.setitem(sys.modules, "docker", None)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError) as caught:
        extras.require("this program", "node")
    assert str(caught.value) == (
        "this program needs packages that are not installed (PyYAML, docker); run: pip install 'arv-ssh[node]'"
    )
    extras.require("a part of it", "node", "uvloop")
