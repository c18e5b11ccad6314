"""The attributes of files (draft-ietf-secsh-filexfer-02 §5): read, set, and as the line that ``ls -l`` would print."""

from __future__ import annotations

import errno
import os
import time
from stat import filemode
from struct import Struct

from crunch_sshd.inside.sftp.wire import Fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SIZE, UIDGID, PERMISSIONS, ACMODTIME = 1, 2, 4, 8
EXTENDED = 0x80000000
NONE = bytes(4)
"""The encoding of no attributes at all."""
HALF_A_YEAR = 365 * 24 * 60 * 60 // 2
"""Seconds after which ls prints the year instead of the time."""

_ALL = Struct(">IQIIIII")
_TIME_MASK = 0xFFFFFFFF


class Attributes:
    """What a client wants to set; attributes that it did not mention are None."""

    size: int | None = None
    owner: tuple[int, int] | None = None
    permissions: int | None = None
    times: tuple[int, int] | None = None

    def __init__(self, fields: Fields) -> None:
        flags = fields.u32()
        if flags & SIZE:
            self.size = fields.u64()
        if flags & UIDGID:
            self.owner = (fields.u32(), fields.u32())
        if flags & PERMISSIONS:
            self.permissions = fields.u32() & 0o7777
        if flags & ACMODTIME:
            self.times = (fields.u32(), fields.u32())
        if flags & EXTENDED:
            for _ in range(2 * fields.u32()):
                fields.view()

    def apply(self, target: bytes | int, *, follow: bool = True) -> None:
        """Set these on a path or an open file; ``follow`` False means a symbolic link itself, without a size.

        What fails does not keep the rest from being set, as in OpenSSH; the last failure is raised.
        """
        failure: OSError | None = None
        for step in self._steps(target, follow):
            try:
                step()
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure

    def _steps(self, target: bytes | int, follow: bool) -> list[Callable[[], None]]:
        # The order is OpenSSH's.
        steps: list[Callable[[], None]] = []
        if (size := self.size) is not None:
            steps.append(lambda: os.truncate(target, size))
        if (permissions := self.permissions) is not None:
            steps.append(lambda: _change_mode(target, permissions, follow))
        if (times := self.times) is not None:
            steps.append(lambda: os.utime(target, times, follow_symlinks=follow))
        if (owner := self.owner) is not None:
            steps.append(lambda: os.chown(target, *owner, follow_symlinks=follow))
        return steps


def _change_mode(target: bytes | int, mode: int, follow: bool) -> None:
    if not follow and os.path.islink(target):
        raise OSError(errno.EOPNOTSUPP, "The permissions of a symbolic link cannot be set")  # Linux has none
    os.chmod(target, mode)


def encode(facts: os.stat_result) -> bytes:
    """Return a file's attributes; times are in seconds, cut to 32 bits."""
    return _ALL.pack(
        SIZE | UIDGID | PERMISSIONS | ACMODTIME,
        facts.st_size,
        facts.st_uid,
        facts.st_gid,
        facts.st_mode,
        int(facts.st_atime) & _TIME_MASK,
        int(facts.st_mtime) & _TIME_MASK,
    )


def long_name(name: bytes, facts: os.stat_result, now: float, user: bytes, group: bytes) -> bytes:
    """Return the line for a listing, as OpenSSH's ls_file writes it; times are in UTC."""
    recent = now - HALF_A_YEAR < facts.st_mtime <= now
    when = time.strftime("%b %e %H:%M" if recent else "%b %e  %Y", time.gmtime(facts.st_mtime))
    mode = filemode(facts.st_mode)
    return b"%s  %3d %-8s %-8s %8d %s %s" % (
        mode.encode(), facts.st_nlink, user, group, facts.st_size, when.encode(), name
    )  # fmt: skip
