"""Commands of stock Arvados' ``arvados-client`` that ours does not have: they are handed to it, where it is installed.

Owns finding it: the next program of our name in PATH after this one. Two programs share the name, and either may come
first.
"""

from __future__ import annotations

import os
import sys

from arv_ssh.errors import ArvSshError

NAME = "arvados-client"
COUNT = "ARV_SSH_HANDED_OVER"
MOST = 5
"""Times in a row: more means that the programs, such as a wrapper around ours, hand on to each other for ever."""


def hand_over(argv: list[str]) -> None:
    """Become the next ``arvados-client`` in PATH; return if there is none."""
    program = next_program(sys.argv[0], os.environ.get("PATH", os.defpath))
    count = os.environ.get(COUNT, "")
    handed = int(count) if count.isdecimal() and len(count) < 3 else 0
    if not program or handed >= MOST:
        return
    os.environ[COUNT] = str(handed + 1)
    try:
        os.execv(program, [program, *argv])  # noqa: S606 - no shell in between is the point
    except OSError as error:
        raise ArvSshError(f"cannot start {program}, which has this command: {error.strerror}") from error


def next_program(own: str, path: str) -> str:
    """Return the next program of our name after ``own`` in ``path``; after none, the first that is another file.

    Directories relative to the current one do not count: there anybody may have left a program of our name.
    """
    directories = filter(os.path.isabs, path.split(os.pathsep))
    places = [os.path.join(directory, NAME) for directory in directories]
    found = [place for place in places if os.path.isfile(place) and os.access(place, os.X_OK)]
    ours = [index for index, place in enumerate(found) if _is_same(place, own)]
    candidates = found[ours[-1] + 1 :] if ours else found
    return next((place for place in candidates if not _is_same(place, own)), "")


def _is_same(place: str, own: str) -> bool:
    try:
        return os.path.samefile(place, own)
    except OSError:
        return False
