"""The words of a command where no shell is: what a shell would make of it, or a refusal."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crunch_sshd.session import words

ALPHABET = "ab1 \t\n\\'\"$`*?[]~#=|&;<>(){}!-/"


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("/program", ["/program"]),
        ("  /p\t'a b' \"c\" d\\ e ", ["/p", "a b", "c", "d e"]),
        ("/p '' \"\"", ["/p", "", ""]),
        ("/p a'b'\"c\"\\d", ["/p", "abcd"]),
        (r'/p "\$a \` \\ \" \n"', ["/p", r'$a ` \ " \n']),
        ("/p a\\\nb \\\n c \"d\\\ne\" 'f\\\ng'", ["/p", "ab", "c", "de", "f\\\ng"]),
        ("\n/p a\n\n ", ["/p", "a"]),
        ("/p 'a\nb' \"|\" \\; '$x' '`x`' '*' \"~\" \\~ '#' '<'",
         ["/p", "a\nb", "|", ";", "$x", "`x`", "*", "~", "~", "#", "<"]),
        ("[ -f /x ]", ["[", "-f", "/x", "]"]),
        ("/p {} a{b,c} a[ a] a[] a! ! if x=1 a#b a~ a=~/b a^b % $ a$ \"$\" \"a$ b\" $/ '$'x",
         ["/p", "{}", "a{b,c}", "a[", "a]", "a[]", "a!", "!", "if", "x=1", "a#b", "a~", "a=~/b", "a^b", "%", "$", "a$",
          "$", "a$ b", "$/", "$x"]),
        ("'a'=1 b", ["a=1", "b"]),
        ("'if' a", ["if", "a"]),
        ("/p '['a] [\\]", ["/p", "[a]", "[]"]),
        ("/p ünï\u00a0x \r\f", ["/p", "ünï\u00a0x", "\r\f"]),
        ("", []),
        (" \t\n", []),
    ],
)  # fmt: skip
def test_words(command: str, found: list[str]) -> None:
    """Quoted, everything is a word; unquoted, what no shell changes is."""
    assert words.split(command) == found


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("/p >x", "the operator '>'"), ("/p 2>&1", "the operator '>&'"), ("/p <<E", "the operator '<<'"),
        ("/p|q", r"the operator '\|'"), ("/p && q", "the operator '&&'"), ("/p || q", r"the operator '\|\|'"),
        ("/p; q", "the operator ';'"), ("/p &", "the operator '&'"), ("(/p)", r"the operator '\('"),
        ("/p\n/q", "a line break"), ("/p $HOME", r"the expansion '\$HOME'"), ("/p ${x:-y}", r"the expansion '\$\{'"),
        ('/p "$x"', r"the expansion '\$x'"), ("/p $(q)", r"the expansion '\$\('"), ("/p `q`", "the expansion '`'"),
        ('/p "a`q`"', "the expansion '`'"), ("/p $1", r"the expansion '\$1'"), ("/p $?", r"the expansion '\$\?'"),
        ("/p $'a'", r"""the expansion "\$'"""), ('/p $"a"', "the expansion '\\$\"'"),
        ("/p *.c", r"the pattern '\*\.c'"),
        ("/p a?", r"the pattern 'a\?'"), ("/p [ab]", r"the pattern '\[ab\]'"), ("/p '['*", r"the pattern '\[\*'"),
        ("/p ~", "the tilde '~'"), ("~/p", "the tilde '~/p'"), ("/p ~ann/x", "the tilde '~ann/x'"),
        ("x=1", "the assignment 'x=1'"), ("X_2='a b' /p", "the assignment 'X_2=a b'"), ("/p # why", "the comment '#'"),
        ("#", "the comment '#'"), ("if /p", "the reserved word 'if'"), ("! /p", "the reserved word '!'"),
        ("/p 'a\nb'*", r"the pattern 'a\\nb\*'"), ("/p $" + "x" * 9999, "the expansion '.x{39}'$"),
    ],
)  # fmt: skip
def test_needs_a_shell(command: str, what: str) -> None:
    """What only a shell can do is refused, in one line that names it."""
    with pytest.raises(words.NeedsShell, match=f"^{what}") as caught:
        words.split(command)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["/p 'a", '/p "a', "/p a\\", "/p 'a\"", '/p "a\\"', "'"])
def test_unfinished(command: str) -> None:
    """A quotation without an end is an error, as in a shell."""
    with pytest.raises(words.Unfinished):
        words.split(command)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(command=st.text(ALPHABET, max_size=12))
def test_as_a_shell(tmp_path: Path, command: str) -> None:
    """Whatever passes, a shell splits into the same words; here are files that any pattern would match."""
    for name in ("a", "b", "ab", "1", "{}", "-", "=", "!"):
        (tmp_path / name).touch()
    try:
        found = words.split(command)
    except ValueError:
        return
    script = "printf '%s\\0' word " + command.lstrip(" \t\n")
    command_line, home = ["/bin/sh", "-c", script], {"HOME": "/home"}
    done = subprocess.run(command_line, capture_output=True, cwd=tmp_path, env=home, check=True)
    assert done.stdout.decode().split("\0")[1:-1] == found, script


def test_large_commands() -> None:
    """A large command takes no more than linear time."""
    assert len(words.split("/p " + "a " * 50_000)) == 50_001
    assert words.split("/p " + "\n" * 50_000) == ["/p"]
    with pytest.raises(words.Unfinished):
        words.split("/p " + '"' + "\\a" * 50_000)
