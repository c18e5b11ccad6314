"""The commands' arguments as argparse reads them, and each mistake in one sentence of ours."""

from __future__ import annotations

import pytest

from arv_ssh.errors import UsageError
from proxycommand import command_line

UUID = "zzzzz-dz642-abcdeabcdeabcde"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("shell", "shell needs a container's UUID; see arvados-client shell --help"),
        ("shell --user", "the option --user needs a value; see arvados-client shell --help"),
        ("shell --nope=1 UUID", "unknown option --nope; see arvados-client shell --help"),
        ("shell --wait=1 UUID", "the option --wait takes no value; see arvados-client shell --help"),
        ("ls --jso", "unknown option --jso; see arvados-client ls --help"),
        ("ls --cluster zz", "'zz' is not a cluster id: give the first five characters of the cluster's UUIDs"),
        (
            "ssh-config --install --output-dir x",
            "--install and --output-dir contradict each other: give only one; see arvados-client ssh-config --help",
        ),
        (
            "forward UUID",
            "forward needs a container's UUID and what to forward, such as 8888:8888; "
            "see arvados-client forward --help",
        ),
        ("doctor a b", "doctor does not take 'b'; see arvados-client doctor --help"),
        ("doctor a -", "doctor does not take '-'; see arvados-client doctor --help"),
        ("speedtest --seconds -5 UUID", "--seconds is '-5'; give a number above 0, such as 3"),
        ("speedtest --keystrokes 2.5 UUID", "--keystrokes is '2.5'; give a number above 0, such as 100"),
        ("completion", "completion needs bash or zsh; see arvados-client completion --help"),
        ("completion fish", "completion needs bash or zsh, not 'fish'; see arvados-client completion --help"),
    ],
)
def test_mistakes(line: str, sentence: str) -> None:
    """Each kind of mistake is one sentence that names it and says what to do."""
    command, *words = line.split()
    with pytest.raises(UsageError) as raised:
        command_line.command_parsers()[command].read(words)
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        ([UUID], []),
        (["--wait", UUID, "ls", "--wait"], ["ls", "--wait"]),
        ([UUID, "-L", "80:a:80", "-v"], ["-L", "80:a:80", "-v"]),
        ([UUID, "-N", "--", "-odd"], ["-N", "--", "-odd"]),
        ([UUID, "--user", "ann"], ["--user", "ann"]),
        ([UUID, "-h"], ["-h"]),
    ],
)
def test_what_follows_the_uuid_is_sshs(words: list[str], rest: list[str]) -> None:
    """All that follows the UUID of ``shell`` is for ssh, as it stands, even what looks like an option of ours."""
    options = command_line.command_parsers()["shell"].read(words)
    assert (options.target, options.words, options.user) == (UUID, rest, "")


def test_a_command_right_after_two_dashes() -> None:
    """``shell UUID -- COMMAND`` runs COMMAND, with its own options."""
    options = command_line.command_parsers()["shell"].read([UUID, "--", "ls", "-l"])
    assert options.words[-2:] == ["ls", "-l"]


def test_defaults() -> None:
    """What is not given has the value that the help names, or none."""
    options = command_line.command_parsers()["speedtest"].read([UUID])
    assert (options.seconds, options.keystrokes, options.json, options.settings) == (3, 100, False, "")
