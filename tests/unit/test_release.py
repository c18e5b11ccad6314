"""scripts/release, in a repository of its own and with no index to ask: what it makes, and what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arv_ssh import __version__
from tests import wheelhouse
from tests.timing import DEADLINE
from tests.unit.test_packaging import ROOT, SOURCES

NAMES = {f"arv_ssh-{__version__}.tar.gz", f"arv_ssh-{__version__}-py3-none-any.whl"}
GIT = ("git", "-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")


class Repository:
    """A clone of the sources as they are here, with one commit."""

    def __init__(self, directory: Path) -> None:
        self.path, self.wheels = directory / "repository", directory / "wheels"
        for name in (*SOURCES, "scripts/release", ".gitignore"):
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, self.path / name)
        python = self.path / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        self.change_log(__version__)
        self.wheels.mkdir()
        wheelhouse.fill(self.wheels, "arv-ssh")
        self.git("init", "-q")
        self.commit()

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", "Everything")

    def change_log(self, version: str, unreleased: str = "") -> None:
        """Write a changelog with a section for ``version``."""
        text = f"# Changelog\n\n## [Unreleased]\n\n{unreleased}\n## [{version}] - 2026-11-30\n\n- Something.\n"
        (self.path / "CHANGELOG.md").write_text(text)

    def git(self, *words: str) -> str:
        command = (*GIT, *words)
        return subprocess.run(command, cwd=self.path, check=True, capture_output=True, text=True).stdout

    def release(self, *words: str) -> subprocess.CompletedProcess[str]:
        settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_NO_COMPILE": "1"}
        author = {f"GIT_{who}_{what}": "somebody" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        return subprocess.run(
            [self.path / "scripts" / "release", *words], capture_output=True, text=True, timeout=6 * DEADLINE,
            env={"PATH": os.environ["PATH"], "HOME": "/proc/none", **settings, **author},
        )  # fmt: skip

    def made(self) -> set[str]:
        return {path.name for path in (self.path / "dist").glob("*")}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_a_release(repository: Repository) -> None:
    """A dry run makes sdist and wheel and starts what is in them; a release tags the commit too, and only once."""
    dry = repository.release("--dry-run")
    assert dry.returncode == 0, dry.stdout + dry.stderr
    assert f"crunch-dispatch-local {__version__}\n" in dry.stdout
    assert (repository.made(), repository.git("tag")) == (NAMES, "")

    real = repository.release()
    assert real.returncode == 0, real.stdout + real.stderr
    assert repository.git("tag", "--points-at", "HEAD") == f"v{__version__}\n"

    again = repository.release()
    assert (again.returncode, again.stderr) == (
        1, f"scripts/release: the tag v{__version__} is there; raise arv_ssh.__version__\n"
    )  # fmt: skip


def test_what_is_refused(repository: Repository) -> None:
    """No release without a section of the changelog, with changes beside it, or from a tree with changes."""
    repository.change_log("0.0.1")
    assert f"CHANGELOG.md has no section '## [{__version__}] - YYYY-MM-DD'" in repository.release().stderr
    repository.change_log(__version__, "- Something new.\n")
    assert "CHANGELOG.md has changes under Unreleased" in repository.release().stderr
    repository.change_log(__version__)
    (repository.path / "README.md").write_text("something else\n")
    changed = repository.release()
    assert changed.stderr == "scripts/release: the tree has changes that are not committed; commit or remove them\n"
    assert (repository.made(), repository.git("tag")) == (set(), "")


def test_a_wheel_that_does_not_work(repository: Repository) -> None:
    """A program that does not say its version stops the release before the tag."""
    program = repository.path / "proxycommand" / "__main__.py"
    program.write_text(program.read_text(encoding="utf-8").replace("{described.prog} {__version__}", "something else"))
    repository.commit()
    done = repository.release()
    assert done.returncode == 1
    assert "arvados-client --version says 'something else'" in done.stderr
    assert (repository.made(), repository.git("tag")) == (set(), "")
