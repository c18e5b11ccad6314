"""A directory that is served: what is found in it, and that nothing leads out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arv_ssh.errors import Forbidden, NotFound
from arv_ssh.webdav import directory
from arv_ssh.webdav.directory import Directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("secret")
    inside = tmp_path / "logs"
    (inside / "sub").mkdir(parents=True)
    (inside / "stdout.txt").write_text("out")
    (inside / "sub" / "deep.txt").write_text("deep")
    (inside / "link.txt").symlink_to("../secret.txt")
    (inside / "near.txt").symlink_to("stdout.txt")
    (inside / "up").symlink_to("..")
    (inside / "around").symlink_to("sub")
    os.mkfifo(inside / "pipe")
    return inside


@pytest.mark.parametrize(("names", "text"), [([b"stdout.txt"], b"out"), ([b"sub", b"deep.txt"], b"deep")])
def test_files(root: Path, names: list[bytes], text: bytes) -> None:
    """Files are found in the directory and below."""
    file, entry = Directory(root).open_file(names)
    assert file is not None
    with file:
        assert file.read() == text
    assert (entry.name, entry.size, entry.is_directory) == (names[-1], len(text), False)


@pytest.mark.parametrize(
    "names",
    [[b"none"], [b".."], [b"..", b"secret.txt"], [b"sub", b"..", b"..", b"secret.txt"], [b"."], [b"../secret.txt"],
     [b"link.txt"], [b"near.txt"], [b"up"], [b"up", b"secret.txt"], [b"around", b"deep.txt"], [b"pipe"],
     [b"stdout.txt", b"x"], [b"a\0b"], [b"x" * 5000]],
)  # fmt: skip
def test_what_is_not_there(root: Path, names: list[bytes]) -> None:
    """Nothing is found above the directory, through a symbolic link, or in a pipe, which is not waited for."""
    for ask in (lambda: Directory(root).open_file(names), lambda: Directory(root).list(names, deep=True)):
        with pytest.raises(NotFound, match="no such file"):
            ask()
    with pytest.raises(NotFound):
        Directory(root / "later").open_file([])


def test_listing(root: Path) -> None:
    """Files and directories are listed by name; links and pipes are not."""
    found = Directory(root).list([], deep=True)
    assert [(entry.name, entry.is_directory, entry.size) for entry in found] == [
        (b"", True, 0), (b"stdout.txt", False, 3), (b"sub", True, 0)
    ]  # fmt: skip
    assert len(Directory(root).list([], deep=False)) == 1
    assert [entry.name for entry in Directory(root).list([b"stdout.txt"], deep=True)] == [b"stdout.txt"]
    assert Directory(root).open_file([b"sub"])[0] is None


def test_large_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with too many entries is not listed; its files are still there."""
    monkeypatch.setattr(directory, "MAX_ENTRIES", 1)
    with pytest.raises(Forbidden, match="more than 1 entries"):
        Directory(root).list([], deep=True)
    assert Directory(root).list([b"stdout.txt"], deep=True)


def test_descriptors_are_given_back(root: Path) -> None:
    """Nothing stays open, whatever was asked."""
    before = len(os.listdir("/proc/self/fd"))
    test_listing(root)
    for names in ([b"up", b"x"], [b"link.txt"], [b"sub", b"none"]):
        test_what_is_not_there(root, names)
    assert len(os.listdir("/proc/self/fd")) == before
