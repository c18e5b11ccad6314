"""Whether a user can work in a directory: this process is the container, and its files are this test's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crunch_sshd.runtimes import Account
from crunch_sshd.runtimes.host_container import HostContainer

NOBODY = Account("nobody", 65534, 65534, "/", "/bin/sh", "nobody")
ROOT = Account("root", 0, 0, "/root", "/bin/sh", "")
DENIED, MISSING = "Permission denied", "No such file or directory"


@pytest.fixture
def container() -> Iterator[HostContainer]:
    """This very process as a container."""
    found = HostContainer(os.getpid())
    yield found
    found.close()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may come to, unlike those of pytest."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_missing(container: HostContainer, place: Path) -> None:
    """What is not there, or no directory, is said in the kernel's words."""
    (place / "file").touch()
    assert container.obstacle(str(place / "none"), ROOT) == MISSING
    assert container.obstacle(str(place / "file"), ROOT) == "Not a directory"
    (place / "loop").symlink_to(place / "loop")
    assert container.obstacle(str(place / "loop"), ROOT) == "Too many levels of symbolic links"


@pytest.mark.parametrize(("mode", "reason"), [(0o755, ""), (0o711, ""), (0o700, DENIED), (0o744, DENIED)])
def test_mode(container: HostContainer, place: Path, mode: int, reason: str) -> None:
    """A user needs the right to search the directory and each one above it; root needs none."""
    deep = place / "outer" / "inner"
    deep.mkdir(parents=True)
    deep.parent.chmod(mode)
    assert container.obstacle(str(deep.parent), NOBODY) == reason
    assert container.obstacle(str(deep), NOBODY) == reason
    assert container.obstacle(str(deep), ROOT) == ""


def test_group(container: HostContainer, place: Path) -> None:
    """The right that counts is the owner's, else the group's, else the others'."""
    if os.getuid() != 0:
        pytest.skip("needs root, to give a directory away")
    own, shared = place / "own", place / "shared"
    for one, owner, group, mode in ((own, NOBODY.uid, 0, 0o077), (shared, 0, 4242, 0o710)):
        one.mkdir()
        one.chmod(mode)
        os.chown(one, owner, group)
    assert container.obstacle(str(own), NOBODY) == DENIED
    assert container.obstacle(str(shared), NOBODY) == DENIED
    assert container.obstacle(str(shared), replace(NOBODY, groups=(4242,))) == ""


def test_access_control_list(container: HostContainer, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a list may say otherwise than the mode, the kernel is left to decide."""
    place.chmod(0o700)
    monkeypatch.setattr(os, "listxattr", lambda path: ["system.posix_acl_access"])
    assert container.obstacle(str(place), NOBODY) == ""
