import os
import subprocess
import sys
from pathlib import Path

import pytest

from arv_ssh.errors import UsageError
from crunch_sshd import secret_argument

SECRET = "18318f9250e79d8c20e74b6f44987190e8edabd0d9d8052c6d99b9d10de317a9"

PROGRAM = """
import pathlib, sys
from crunch_sshd import secret_argument
secret = secret_argument.settle(sys.argv[sys.argv.index("--gateway-auth-secret") + 1])
seen = pathlib.Path("/proc/self/cmdline").read_bytes() + pathlib.Path("/proc/self/environ").read_bytes()
print(secret)
print("exposed" if secret.encode() in seen else "hidden")
"""


def test_value() -> None:
    """The value itself is the secret."""
    assert secret_argument.read(SECRET, {}) == SECRET


def test_env() -> None:
    """env:NAME reads a variable of the environment."""
    assert secret_argument.read("env:NAME", {"NAME": SECRET}) == SECRET


def test_file(tmp_path: Path) -> None:
    """file:PATH reads a file; the newline an editor puts at its end is not part of the secret."""
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    assert secret_argument.read(f"file:{path}", {}) == SECRET


def test_descriptor_is_read_and_closed() -> None:
    """fd:N reads an inherited descriptor to its end and closes it."""
    reader, writer = os.pipe()
    os.write(writer, SECRET.encode())
    os.close(writer)
    assert secret_argument.read(f"fd:{reader}", {}) == SECRET
    with pytest.raises(OSError):
        os.fstat(reader)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("", "is empty"),
        ("env:NAME", "has no variable NAME"),
        ("env:EMPTY", "is empty"),
        ("file:/nonexistent/secret", "No such file"),
        ("fd:x", "must be the number"),
        ("fd:999", "cannot read that file descriptor"),
        ("two words", "not one word"),
        ("é" * 10, "not one word"),
        ("x" * 5000, "not one word"),
    ],
)
def test_a_bad_secret_gets_one_sentence_that_does_not_show_it(argument: str, sentence: str) -> None:
    """What cannot be a secret is refused with a sentence, and a wrong value is not repeated."""
    with pytest.raises(UsageError, match=sentence) as caught:
        secret_argument.read(argument, {"EMPTY": ""})
    assert "\n" not in str(caught.value)
    assert "two words" not in str(caught.value)


@pytest.mark.parametrize("spelling", [["--gateway-auth-secret", "S"], ["--gateway-auth-secret=S"]])
def test_concealed_replaces_the_value_only(spelling: list[str]) -> None:
    """Only the option's own value is replaced, in both spellings, not an equal word elsewhere."""
    argv = ["python", "crunch-run", "S", *spelling, "U"]
    assert "fd:7" in secret_argument.concealed(argv, "S", "fd:7")[-2]
    assert secret_argument.concealed(argv, "S", "fd:7")[2] == "S"


@pytest.mark.parametrize("form", ["value", "env", "file", "fd"])
def test_the_process_shows_no_secret(form: str, tmp_path: Path) -> None:
    """Whichever form is used, neither the argument list nor the environment of the process shows the secret after."""
    path = tmp_path / "secret"
    path.write_text(SECRET)
    with path.open("rb") as file:
        argument = {"value": SECRET, "env": "env:NAME", "file": f"file:{path}", "fd": f"fd:{file.fileno()}"}[form]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "--gateway-auth-secret", argument],
            env=os.environ | ({"NAME": SECRET} if form == "env" else {}) | {"PYTHONPATH": os.pathsep.join(sys.path)},
            pass_fds=(file.fileno(),),
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert (done.stdout.split(), done.stderr) == ([SECRET, "hidden"], "")
