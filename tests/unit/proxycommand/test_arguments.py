"""ssh-proxy's arguments, read by hand."""

from __future__ import annotations

import pytest

from arv_ssh.errors import UsageError
from proxycommand import arguments


def read(*argv: str) -> arguments.Arguments:
    return arguments.read(argv, ("--user", "--cluster"), ("--wait",), see="see --help")


def test_both_forms_of_a_value() -> None:
    """A value follows its option or an equals sign, words may stand anywhere, and what is not given is ""."""
    given = read("--user", "ann", "HOST", "--cluster=a=b", "--wait")
    assert (given.values, given.flags, given.words) == ({"--user": "ann", "--cluster": "a=b"}, {"--wait"}, ["HOST"])
    assert read().values == {"--user": "", "--cluster": ""}


def test_words_after_two_dashes() -> None:
    """After -- nothing is an option."""
    given = read("--", "--wait", "--user")
    assert (given.flags, given.words) == (set(), ["--wait", "--user"])


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--user"], "the option --user needs a value; see --help"),
        (["--wait=yes"], "the option --wait takes no value; see --help"),
        (["--usr=ann"], "unknown option --usr; see --help"),
        (["-v"], "unknown option -v; see --help"),
    ],
)
def test_mistakes(argv: list[str], sentence: str) -> None:
    """A mistake is one sentence that ends in where to look."""
    with pytest.raises(UsageError) as raised:
        read(*argv)
    assert str(raised.value) == sentence
