"""Commands for another arvados-client: which program gets them, and that it is never this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxycommand.hand_over import COUNT, next_program
from tests.timing import DEADLINE

OURS = Path(sys.executable).with_name("arvados-client")


def program(directory: Path, text: str) -> Path:
    """Write an executable of our name."""
    directory.mkdir(exist_ok=True)
    file = directory / "arvados-client"
    file.write_text(text)
    file.chmod(0o755)
    return file


def run(path: list[Path], *arguments: str, own: Path = OURS) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": os.pathsep.join([*map(str, path), "/usr/bin", "/bin"])}
    return subprocess.run(
        [str(own), *arguments], capture_output=True, text=True, timeout=DEADLINE, env=environment, input="from here"
    )


def test_handed_over(tmp_path: Path) -> None:
    """The next program in PATH gets the arguments, the standard streams and the exit code as they are."""
    stock = program(tmp_path / "stock", '#!/bin/sh\nprintf "<%s>" "$@"; cat; exit 7\n')
    done = run([OURS.parent, stock.parent], "mount", "--by-id", "a b", "")
    assert (done.returncode, done.stdout, done.stderr) == (7, "<mount><--by-id><a b><>from here", "")
    done = run([OURS.parent, stock.parent], "--format=uuid", "container", "list")
    assert done.stdout.startswith("<--format=uuid>")


def test_ours_stays_ours(tmp_path: Path) -> None:
    """What both programs have is ours, help and version too."""
    stock = program(tmp_path / "stock", "#!/bin/sh\necho stock\n")
    for command in ("--version", "--help", "help"):
        assert "stock" not in run([OURS.parent, stock.parent], command).stdout
    assert "needs a container's UUID" in run([OURS.parent, stock.parent], "logs").stderr


def test_nobody_to_hand_over_to(tmp_path: Path) -> None:
    """Without another program the command is unknown; one before ours, or ours by another name, is no other."""
    before = program(tmp_path / "before", "#!/bin/sh\necho before\n")
    link = tmp_path / "link"
    link.mkdir()
    (link / "arvados-client").symlink_to(OURS)
    for path in ([OURS.parent], [before.parent, OURS.parent], [OURS.parent, link], [link, OURS.parent]):
        done = run(path, "mount")
        assert (done.returncode, done.stdout) == (255, "") and "unknown command 'mount'" in done.stderr


@pytest.mark.parametrize("words", ['exec "$OURS" "$@"', '"$OURS" "$@"'], ids=["exec", "child"])
def test_a_wrapper_around_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """A wrapper of our name that starts ours from elsewhere does not go round for ever."""
    monkeypatch.setenv("OURS", str(OURS))
    wrapper = program(tmp_path / "wrapper", f"#!/bin/sh\n{words}\n")
    done = run([wrapper.parent], "mount", own=wrapper)
    assert done.returncode == 255 and "unknown command 'mount'" in done.stderr


def test_next_program(tmp_path: Path) -> None:
    """The order is PATH's, after ourselves; what cannot be executed does not count."""
    first, ours, last = (program(tmp_path / name, "") for name in ("first", "ours", "last"))
    (program(tmp_path / "plain", "")).chmod(0o644)
    path = os.pathsep.join(str(tmp_path / name) for name in ("first", "ours", "plain", "missing", "last"))
    assert next_program(str(ours), path) == str(last)
    assert next_program(str(last), path) == ""
    assert next_program("/elsewhere/arvados-client", path) == str(first)
    assert COUNT not in os.environ


def test_where_we_happen_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the current directory gets no command, though PATH, or an empty part of it, names that."""
    program(tmp_path / "here", "")
    monkeypatch.chdir(tmp_path / "here")
    for relative in (".", "", "../here"):
        assert next_program(str(OURS), f"{OURS.parent}:{relative}") == ""
