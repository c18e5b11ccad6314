"""The attributes of files (draft-ietf-secsh-filexfer-02 §5): read and set."""

from __future__ import annotations

import errno
import os
from struct import Struct
from struct import error as StructError

from crunch_sshd.inside.sftp.wire import ENDS_TOO_EARLY, Fields, Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Target = bytes | int
    """A path, or the descriptor of an open file."""

SIZE, UIDGID, PERMISSIONS, ACMODTIME = 1, 2, 4, 8
EXTENDED = 0x80000000
NONE = bytes(4)
"""The encoding of no attributes at all."""

_GIVEN = SIZE | UIDGID | PERMISSIONS | ACMODTIME
_u32, _u64, _two = Struct(">I").unpack_from, Struct(">Q").unpack_from, Struct(">II").unpack_from
_pack = Struct(">IQIIIII").pack
_TIME_MASK = 0xFFFFFFFF


class Attributes:
    """What a client wants to set; attributes that it did not mention are None."""

    size: int | None = None
    owner: tuple[int, int] | None = None
    permissions: int | None = None
    times: tuple[int, int] | None = None

    def __init__(self, fields: Fields) -> None:
        packet, at = fields.packet, fields.at
        try:
            flags = _u32(packet, at)[0]
            at += 4
            if flags & SIZE:
                self.size = _u64(packet, at)[0]
                at += 8
            if flags & UIDGID:
                self.owner = _two(packet, at)
                at += 8
            if flags & PERMISSIONS:
                self.permissions = _u32(packet, at)[0] & 0o7777
                at += 4
            if flags & ACMODTIME:
                self.times = _two(packet, at)
                at += 8
        except StructError:
            raise Malformed(ENDS_TOO_EARLY) from None
        fields.at = at
        if flags & EXTENDED:
            for _ in range(2 * fields.u32()):
                fields.view()

    def apply(self, target: Target, *, follow: bool = True) -> None:
        """Set these on a path or an open file; ``follow`` False means a symbolic link itself, without a size.

        What fails does not keep the rest from being set, as in OpenSSH; the last failure is raised.
        """
        failure: OSError | None = None
        for change, wanted in (  # in OpenSSH's order
            (_truncate, self.size), (_change_mode, self.permissions), (_change_times, self.times),
            (_change_owner, self.owner),
        ):  # fmt: skip
            if wanted is not None:
                try:
                    change(target, wanted, follow)
                except OSError as error:
                    failure = error
        if failure is not None:
            raise failure


def _truncate(target: Target, size: Any, follow: bool) -> None:
    os.truncate(target, size)


def _change_mode(target: Target, mode: Any, follow: bool) -> None:
    if not follow and os.path.islink(target):
        raise OSError(errno.EOPNOTSUPP, "The permissions of a symbolic link cannot be set")  # Linux has none
    os.chmod(target, mode)


def _change_times(target: Target, times: Any, follow: bool) -> None:
    os.utime(target, times, follow_symlinks=follow)


def _change_owner(target: Target, owner: Any, follow: bool) -> None:
    os.chown(target, *owner, follow_symlinks=follow)


def encode(facts: Any) -> bytes:
    """Return a file's attributes; ``facts`` is its stat_result, as the tuple in which times are whole seconds."""
    mode, _, _, _, uid, gid, size, accessed, changed, _ = facts
    return _pack(_GIVEN, size, uid, gid, mode, accessed & _TIME_MASK, changed & _TIME_MASK)
