"""Whether a user of a container can work in one of its directories, as seen from the host: nothing is executed.

Owns the answer that chdir(2) would give the user, as far as it can be known from here. Decides nothing: a runtime still
starts the program, and says what it cannot do.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crunch_sshd.runtimes import Account
    from crunch_sshd.runtimes.host_container import HostContainer

KNOWN = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Failures that are the same for every user. (EACCES is not: a FUSE file system can refuse root and admit its user.)"""
ACL = "system.posix_acl_access"
DEEPEST = 256
"""Directories looked at on the way up; a longer path is taken for accessible."""


def obstacle(container: HostContainer, path: str, account: Account) -> str:
    """Return why ``account`` cannot work in the directory, e.g. "Permission denied"; "" if it can or nobody knows."""
    with ExitStack() as stack:
        try:
            found = container.open(path, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            is_known = error.errno in KNOWN and not container.has_ended()
            return os.strerror(error.errno or 0) if is_known else ""
        stack.callback(os.close, found)
        if not os.fstat(found).st_nlink:
            return os.strerror(errno.ENOENT)  # removed, and still mounted here or somebody's working directory
        try:
            is_open = account.uid == 0 or _may_search(container, found, account)
        except OSError:
            is_open = True  # gone meanwhile, or not to be known
    return "" if is_open else os.strerror(errno.EACCES)


def _may_search(container: HostContainer, directory: int, account: Account) -> bool:
    uid = container.user_outside(account.uid)
    groups = container.groups_outside([account.gid, *account.groups])
    with ExitStack() as stack:
        root = container.open_root()
        stack.callback(os.close, root)
        return all(_admits(one, uid, groups) for one in _upwards(directory, root, stack))


def _upwards(directory: int, root: int, stack: ExitStack) -> Iterator[int]:
    """Yield the directory and those above it, below ``root``, which everybody may search in any container of use."""
    current = directory
    for _ in range(DEEPEST):
        if os.path.sameopenfile(current, root):
            return
        yield current
        current = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=current)
        stack.callback(os.close, current)


def _admits(directory: int, uid: int | None, groups: list[int]) -> bool:
    """Say whether the mode lets the user search the directory; True if an access control list may say otherwise."""
    facts = os.fstat(directory)
    if facts.st_uid == uid:
        bit = stat.S_IXUSR
    elif facts.st_gid in groups:
        bit = stat.S_IXGRP
    else:
        bit = stat.S_IXOTH
    return bool(facts.st_mode & bit) or ACL in os.listxattr(f"/proc/self/fd/{directory}")
