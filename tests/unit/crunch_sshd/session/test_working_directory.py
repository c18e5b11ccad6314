"""Where a session's programs start."""

from __future__ import annotations

import pytest

from crunch_sshd.runtimes import Account, Command, StartFailed
from crunch_sshd.session import working_directory
from tests.unit.crunch_sshd.double import CRUNCH, MemoryRuntime


class Denying(MemoryRuntime):
    """A container in whose directories nobody can work."""

    def directory(self) -> str:
        return "/work"

    def obstacle(self, directory: str, account: Account) -> str:
        return "Permission denied"


class Gone(MemoryRuntime):
    """A container that has ended."""

    def directory(self) -> str:
        raise FileNotFoundError("/proc/1/cwd")


def test_choice() -> None:
    """The container's directory, or the user's home."""
    assert working_directory.choose("container", CRUNCH) is None
    assert working_directory.choose("home", CRUNCH) == "/home/crunch"


@pytest.mark.parametrize("word", ["", "Home", "/tmp", "x" * 1000])
def test_unknown_word(word: str) -> None:
    """Any other word is refused, and repeated in part."""
    with pytest.raises(StartFailed, match="ARV_CWD is .* must be container or home") as caught:
        working_directory.choose(word, CRUNCH)
    assert caught.value.exit_status == 2 and len(str(caught.value)) < 100


def test_settled() -> None:
    """A command stays as it is where it can start, and goes to / with a sentence where it cannot."""
    command = Command(["pwd"], CRUNCH)
    assert working_directory.settle(command, MemoryRuntime()) == (command, "")
    moved, sentence = working_directory.settle(command, Denying())
    assert moved.directory == "/"
    assert sentence == "could not chdir to working directory /work: Permission denied; going on in /"
    assert working_directory.settle(command, Gone()) == (command, "")
    _, sentence = working_directory.settle(Command(["pwd"], CRUNCH, directory="/home/crunch"), Denying())
    assert sentence.startswith("could not chdir to home directory /home/crunch: ")
