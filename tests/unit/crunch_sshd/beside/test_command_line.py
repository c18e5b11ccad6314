"""Whose each word of a dispatcher's call is, and whether it runs a container."""

from __future__ import annotations

import pytest

from arv_ssh.errors import UsageError
from crunch_sshd.beside import command_line

UUID = "zzzzz-dz642-abcdeabcdeabcde"


def test_words_of_ours_are_taken_out_wherever_they_stand() -> None:
    """Ours go with their values, in both spellings; all others stay as they are, in their order."""
    call = command_line.split(
        ["--stock", "/opt/crunch-run", "--runtime-engine=docker", "-cgroup-parent-subsystem=memory",
         "--accept-unsigned-sessions", '--forwarding={"agent": false}', "", UUID]
    )  # fmt: skip
    assert call.stock == ["--runtime-engine=docker", "-cgroup-parent-subsystem=memory", "", UUID]
    assert command_line.stock_path(call) == "/opt/crunch-run"
    options = command_line.options(call)
    assert options.accept_unsigned_sessions and options.forwarding == '{"agent": false}'


@pytest.mark.parametrize(
    "words",
    [[], ["--list"], ["-list", "--stdin-prices"], ["--kill", "15", UUID], ["-kill=9", UUID], ["--version"],
     ["-no-detach", UUID], ["--detach", UUID, "more"], ["zzzzz-xvhdp-abcdeabcdeabcde"]],
)  # fmt: skip
def test_other_calls(words: list[str]) -> None:
    """What runs no container, or is not understood, is stock's alone, word for word."""
    call = command_line.split(words)
    assert (call.uuid, call.stock, call.ours) == ("", words, [])


@pytest.mark.parametrize(
    ("words", "engine"),
    [(["--runtime-engine=singularity"], "singularity"), (["-runtime-engine", "singularity"], "singularity"),
     (["--runtime-engine=singularity", "--runtime-engine=docker"], "docker"), ([], "docker")],
)  # fmt: skip
def test_what_is_read_of_stocks_words(words: list[str], engine: str) -> None:
    """Options are read as Go reads them: one hyphen or two, the last one counts."""
    call = command_line.split(["--detach", *words, UUID])
    assert (call.uuid, call.value("runtime-engine", "docker")) == (UUID, engine)
    assert call.has("detach") and not call.has("stdin-config")
    assert not command_line.split(["--detach=false", UUID]).has("detach")


def test_a_mistake_in_ours_is_one_sentence() -> None:
    """It is reported only when our words are read; stock's program is known before."""
    call = command_line.split(["--stock=/opt/crunch-run", "--runtime=magic", UUID])
    assert command_line.stock_path(call) == "/opt/crunch-run"
    with pytest.raises(UsageError, match="invalid choice"):
        command_line.options(call)
    assert command_line.stock_path(command_line.split([UUID, "--stock"])) == ""
