"""The attributes of files (draft-ietf-secsh-filexfer-02 §5): read and set."""

from __future__ import annotations

import errno
import os
from struct import Struct

from crunch_sshd.inside.sftp.wire import Fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SIZE, UIDGID, PERMISSIONS, ACMODTIME = 1, 2, 4, 8
EXTENDED = 0x80000000
NONE = bytes(4)
"""The encoding of no attributes at all."""

_GIVEN = SIZE | UIDGID | PERMISSIONS | ACMODTIME
_pack = Struct(">IQIIIII").pack
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
    """Return a file's attributes."""
    whole: Any = facts  # as a tuple, a stat_result has its times in whole seconds
    mode, _, _, _, uid, gid, size, accessed, changed, _ = whole
    return encode_values(size, uid, gid, mode, accessed, changed)


def encode_values(size: int, uid: int, gid: int, mode: int, accessed: int, changed: int) -> bytes:
    """Return these attributes; times are in whole seconds, cut to 32 bits."""
    return _pack(_GIVEN, size, uid, gid, mode, accessed & _TIME_MASK, changed & _TIME_MASK)
