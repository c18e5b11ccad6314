"""Which shells read which profiles, and what this machine's own shell makes of the script."""

from __future__ import annotations

import subprocess

import pytest

from crunch_sshd.session import profiles


@pytest.mark.parametrize("shell", ["/usr/bin/zsh", "/bin/fish", "/bin/tcsh", "/usr/sbin/nologin", "/opt/python"])
def test_other_shells(shell: str) -> None:
    """A shell that does not read /etc/profile by itself is a login shell in its own way."""
    assert profiles.login_shell(shell) == [shell, "-l"]


@pytest.mark.parametrize(("shell", "first"), [("/bin/bash", ".bash_profile"), ("/bin/sh", ".profile"),
                                              ("/usr/bin/dash", ".profile"), ("/bin/ash", ".profile")])  # fmt: skip
def test_files(shell: str, first: str) -> None:
    """Each shell's own profile comes after the system's, and then the shell itself."""
    vector = profiles.login_shell(shell)
    assert vector[0] == vector[-1] == shell
    system, found, users = vector[-2].partition("for _arv_file in ")
    assert found and "/etc/profile" in system and users.startswith(first)


def test_script_is_quiet() -> None:
    """The shell that it becomes reads its commands from stdin, and nothing of ours is left in its environment."""
    done = subprocess.run(profiles.login_shell("/bin/sh"), input=b"set", capture_output=True, check=True)
    assert b"_arv" not in done.stdout and done.stderr == b""


def test_no_path() -> None:
    """A container without a PATH gets the profile's, in which no place is empty: that would be the current one."""
    vector = profiles.login_shell("/bin/sh")
    empty = {"PATH": "", "HOME": "/none"}
    done = subprocess.run(vector, input=b"echo $PATH", capture_output=True, check=True, env=empty)
    assert done.stdout.startswith(b"/") and b"::" not in done.stdout
