"""ssh-proxy's command line, read by hand: ``argparse`` would cost every connection 10 ms."""

from __future__ import annotations

from collections.abc import Sequence

from arv_ssh.errors import UsageError
from arv_ssh.resume.negotiation import DEFAULT_RESUME_FOR


def read_resume_for(text: str) -> int:
    """Read the value of --resume-for, in seconds; "" is the default, 0 none."""
    if not text:
        return DEFAULT_RESUME_FOR
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise UsageError(f"--resume-for is {text!r}; it must be a whole number of seconds, 0 for none")
    return int(text)


class Arguments:
    """The result of :func:`read`. An option that was not given has the value ""."""

    def __init__(self, values: dict[str, str], flags: set[str], words: list[str]) -> None:
        self.values = values
        self.flags = flags
        self.words = words


def read(argv: Sequence[str], valued: Sequence[str], flags: Sequence[str] = (), *, see: str) -> Arguments:
    """Read ``argv`` with the long options ``valued`` (``--name VALUE`` or ``--name=VALUE``) and ``flags``.

    Raise :class:`UsageError` for anything else; ``see`` is where it points the user.
    """
    values = dict.fromkeys(valued, "")
    given: set[str] = set()
    words: list[str] = []
    left = list(argv)
    while left:
        argument = left.pop(0)
        name, equals, value = argument.partition("=")
        if name in values:
            if not equals and not left:
                raise UsageError(f"the option {name} needs a value; {see}")
            values[name] = value if equals else left.pop(0)
        elif argument in flags:
            given.add(argument)
        elif argument == "--":
            return Arguments(values, given, words + left)
        elif equals and name in flags:
            raise UsageError(f"the option {name} takes no value; {see}")
        elif argument.startswith("-"):
            raise UsageError(f"unknown option {name}; {see}")
        else:
            words.append(argument)
    return Arguments(values, given, words)
