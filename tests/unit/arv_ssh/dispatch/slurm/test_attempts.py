from pathlib import Path

import pytest

from arv_ssh.dispatch.slurm.attempts import Attempt, CleanUp, StateDirectory
from arv_ssh.errors import ConfigError

UUID = "zzzzz-dz642-abcdeabcdeabcde"


def test_all_of_it_survives(tmp_path: Path) -> None:
    """Another dispatcher reads what one wrote, and not what was forgotten."""
    state = StateDirectory(tmp_path)
    state.keep(UUID, Attempt(job=7, node="n1"))
    state.keep_clean_up(CleanUp(UUID, "n1", "main", 9))
    read = StateDirectory(tmp_path)
    assert read.attempts == {UUID: Attempt(job=7, node="n1")}
    assert read.clean_ups == {(UUID, "n1"): CleanUp(UUID, "n1", "main", 9)}
    read.forget(UUID)
    read.forget_clean_up(CleanUp(UUID, "n1"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"colour": 1}'])
def test_a_file_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    """A file of another version, or rubbish, is named; nothing is guessed."""
    (tmp_path / f"{UUID}.attempt").write_text(text)
    with pytest.raises(ConfigError, match=f"{UUID}.attempt is not what this version of crunch-dispatch-slurm writes"):
        StateDirectory(tmp_path)
