"""Translates the kernel's errors to what SFTP can say about them. Pure."""

from __future__ import annotations

import errno

from crunch_sshd.inside.sftp import wire

CODES = {
    errno.ENOENT: wire.NO_SUCH_FILE,
    errno.ENOTDIR: wire.NO_SUCH_FILE,
    errno.EBADF: wire.NO_SUCH_FILE,
    errno.ELOOP: wire.NO_SUCH_FILE,
    errno.EPERM: wire.PERMISSION_DENIED,
    errno.EACCES: wire.PERMISSION_DENIED,
    errno.EFAULT: wire.PERMISSION_DENIED,
    errno.ENAMETOOLONG: wire.BAD_MESSAGE,
    errno.EINVAL: wire.BAD_MESSAGE,
    errno.ENOSYS: wire.OP_UNSUPPORTED,
}
"""The status code for each errno, as OpenSSH's errno_to_portable; any other one is FAILURE, explained by its text."""


class Refused(Exception):
    """A request that fails with this status although no system call did."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def code(error: OSError) -> int:
    """Return the status code for ``error``."""
    return CODES.get(error.errno or 0, wire.FAILURE)
