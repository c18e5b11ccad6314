"""The words of a command for an image without a shell: POSIX quoting (XCU 2.2), and no other work of a shell. Pure.

A command that needs more is refused: executed as words, it would do something else than it says, and report success.
"""

from __future__ import annotations

import re

RESERVED = frozenset("! { } case do done elif else esac fi for if in then until while".split())
"""The reserved words (XCU 2.4)."""

_EXPANSION = r"\$(?:[A-Za-z_][A-Za-z0-9_]*|[0-9@*\#?$!({-])|`"
"""What begins a parameter, command or arithmetic expansion (XCU 2.6); any other ``$`` stands for itself."""
_TOKEN = re.compile(
    rf"""(?P<blank>[ \t]+)
    | (?P<joined>\\\n)
    | \\(?P<escaped>.)
    | '(?P<single>[^']*)'
    | "(?P<double>(?:[^"\\]|\\.)*)"
    | (?P<open>['"\\])
    | (?P<operator>\n|&&|\|\||;;|>>|<<-?|<&|>&|<>|>\||[|&;<>()])
    | (?P<expansion>{_EXPANSION}|\$['"])
    | (?P<plain>\$|[^ \t\n\\'"|&;<>()$`]+)""",
    re.DOTALL | re.VERBOSE,
)
_IN_DOUBLE = re.compile(
    rf"""(?P<joined>\\\n) | \\(?P<escaped>[\\$`"]) | (?P<expansion>{_EXPANSION}) | (?P<plain>.)""",
    re.DOTALL | re.VERBOSE,
)
_SPACE = " \t\n"
_QUOTED = "\0"
"""Stands for each quoted character where only the unquoted ones count: no command has a NUL."""
_PATTERN = re.compile(r"[*?]|\[.+\]", re.DOTALL)
_TILDE = re.compile(rf"~[^/{_QUOTED}]*(?:/|\Z)")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_SHOWN = 40
"""Characters of a word in a sentence."""


class NeedsShell(ValueError):
    """The command needs a shell; the text names what for."""


class Unfinished(ValueError):
    """The command ends within a quotation."""


class _Word:
    """A word as it grows. ``bare`` has :data:`_QUOTED` in the place of each quoted character."""

    def __init__(self) -> None:
        self.text = ""
        self.bare = ""

    def add(self, text: str, *, quoted: bool) -> None:
        self.text += text
        self.bare += _QUOTED * len(text) if quoted else text


def split(command: str) -> list[str]:
    """Return the words that a shell would execute for ``command``, which has no NUL.

    Raises :class:`NeedsShell` for an operator, an expansion, a pattern, a tilde, an assignment, a comment or a reserved
    word that is not quoted, :class:`Unfinished` for a quotation without an end.
    """
    words: list[str] = []
    word: _Word | None = None
    begin, end = len(command) - len(command.lstrip(_SPACE)), len(command.rstrip(_SPACE))
    for match in _TOKEN.finditer(command):
        kind = match.lastgroup or ""
        outside = not begin <= match.start() < end
        if kind == "blank" or outside and match[0] == "\n":  # a line break before or after the command
            words += _finished(word, first=not words)
            word = None
        elif kind != "joined":
            word = word or _Word()
            _grow(word, kind, match[kind])
    return words + _finished(word, first=not words)


def _grow(word: _Word, kind: str, text: str) -> None:
    if kind == "open":
        raise Unfinished("a quotation has no end")
    if kind == "operator":
        raise NeedsShell("a line break" if text == "\n" else f"the operator {text!r}")
    if kind == "expansion":
        raise NeedsShell(f"the expansion {text[:_SHOWN]!r}")
    if kind == "double":
        text = _without_escapes(text)
    word.add(text, quoted=kind != "plain")


def _without_escapes(text: str) -> str:
    """Return what stands between double quotes, where ``$`` and ` are special, and a backslash only before a few."""
    found = []
    for match in _IN_DOUBLE.finditer(text):
        kind = match.lastgroup or ""
        if kind == "expansion":
            raise NeedsShell(f"the expansion {match[0][:_SHOWN]!r}")
        found.append("" if kind == "joined" else match[kind])
    return "".join(found)


def _finished(word: _Word | None, *, first: bool) -> list[str]:
    if word is None:
        return []
    bare, shown = word.bare, word.text[:_SHOWN]
    if bare.startswith("#"):
        raise NeedsShell(f"the comment {shown!r}")
    if _TILDE.match(bare) or _PATTERN.search(bare):
        raise NeedsShell(f"the {'tilde' if bare[0] == '~' else 'pattern'} {shown!r}")
    if first and _ASSIGNMENT.match(bare):
        raise NeedsShell(f"the assignment {shown!r}")
    if first and bare in RESERVED:
        raise NeedsShell(f"the reserved word {shown!r}")
    return [word.text]
