"""``--gateway-auth-secret``: where the secret is read from, and how it stays out of ``ps``.

Owns the four forms SECRET may have (the value itself, ``env:NAME``, ``file:PATH``, ``fd:N``) and the rule that the
value and ``env:`` forms, which ``/proc/PID`` shows, do not outlive the first instants of the process. Knows nothing of
the secret's purpose. Imports are few: this runs before anything slow does.

Why a second exec and not only setproctitle: that clobbers the argument area, but leaves the environment that the kernel
shows in ``/proc/PID/environ`` as it was, and fails silently where it cannot find the area. An exec leaves no old area.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from arv_ssh.errors import UsageError

OPTION = "--gateway-auth-secret"
LIMIT = 4096
"""Bytes read of a file or descriptor: a secret has 64, a wrong path may have no end, and a pipe takes this at once."""

_FD = re.compile(r"fd:(\d{1,9})")


def read(argument: str, environment: Mapping[str, str]) -> str:
    """Return the secret that ``argument`` names; raise :class:`UsageError` with a sentence that does not show it.

    A descriptor is read to its end and closed.
    """
    if argument.startswith("env:"):
        name = argument.removeprefix("env:")
        if name not in environment:
            raise UsageError(f"{OPTION} env:{name}: the environment has no variable {name}")
        return _checked(environment[name], f"env:{name}")
    if argument.startswith("file:"):
        return _checked(_read_file(argument.removeprefix("file:")), argument)
    if argument.startswith("fd:"):
        return _checked(_read_descriptor(argument), argument)
    return _checked(argument, "the value given")


def is_exposed(argument: str) -> bool:
    """Say whether this form shows the secret in ``/proc/PID/cmdline`` or ``/proc/PID/environ``."""
    return not argument.startswith(("file:", "fd:"))


def settle(argument: str) -> str:
    """Return the secret; when ``argument`` exposes it, restart this program in place with ``fd:N``.

    The restart keeps the pid and every inheritable descriptor. It must happen before threads are started.
    """
    secret = read(argument, os.environ)
    if not is_exposed(argument):
        return secret
    reader, writer = os.pipe()
    os.write(writer, secret.encode())
    os.close(writer)
    os.set_inheritable(reader, True)
    environment = dict(os.environ)
    environment.pop(argument.removeprefix("env:"), None)
    os.execve(sys.executable, concealed(sys.orig_argv, argument, f"fd:{reader}"), environment)  # noqa: S606
    raise AssertionError("execve does not return")


def concealed(argv: Sequence[str], argument: str, replacement: str) -> list[str]:
    """Return ``argv`` with the option's value ``argument`` replaced, in both spellings of the option."""
    result: list[str] = []
    for word in argv:
        if word == f"{OPTION}={argument}":
            word = f"{OPTION}={replacement}"
        elif word == argument and result and result[-1] == OPTION:
            word = replacement
        result.append(word)
    return result


def _checked(text: str, where: str) -> str:
    secret = text.removesuffix("\n")
    if not secret:
        raise UsageError(f"{OPTION}: the secret from {where} is empty")
    if len(secret) > LIMIT or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise UsageError(f"{OPTION}: the secret from {where} is not one word of printable ASCII, at most {LIMIT} long")
    return secret


def _read_file(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return file.read(LIMIT + 2).decode(errors="replace")
    except OSError as error:
        raise UsageError(f"{OPTION} file:{path}: cannot read it: {error.strerror}") from error


def _read_descriptor(argument: str) -> str:
    found = _FD.fullmatch(argument)
    if found is None:
        raise UsageError(f"{OPTION}: what follows fd: must be the number of an open file descriptor")
    try:
        with open(int(found.group(1)), "rb") as file:
            return file.read(LIMIT + 2).decode(errors="replace")
    except (OSError, OverflowError) as error:
        raise UsageError(f"{OPTION} {argument}: cannot read that file descriptor: {error}") from error
