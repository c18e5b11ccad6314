"""The attributes of files (draft-ietf-secsh-filexfer-02 §5): read and set."""

from __future__ import annotations

import errno
import os
from struct import Struct
from struct import error as StructError

from crunch_sshd.inside.sftp.wire import ALL_ATTRIBUTES, ENDS_TOO_EARLY, TIME_MASK, Fields, Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Target = bytes | int
    """A path, or the descriptor of an open file."""
    Wanted = tuple[int | None, int | None, tuple[int, int] | None, tuple[int, int] | None]
    """Size, permissions, times and owner that a client wants to set, in OpenSSH's order; None as it did not say."""

SIZE, UIDGID, PERMISSIONS, ACMODTIME = 1, 2, 4, 8
EXTENDED = 0x80000000
NONE = bytes(4)
"""The encoding of no attributes at all."""

_u32, _u64, _two = Struct(">I").unpack_from, Struct(">Q").unpack_from, Struct(">II").unpack_from
_pack = Struct(">IQIIIII").pack


def read(packet: memoryview, at: int) -> Wanted:
    """Return what a client wants to set: the last field of a request, at ``at``; raises :class:`wire.Malformed`."""
    size = permissions = times = owner = None
    try:
        flags = _u32(packet, at)[0]
        at += 4
        if flags & SIZE:
            size = _u64(packet, at)[0]
            at += 8
        if flags & UIDGID:
            owner = _two(packet, at)
            at += 8
        if flags & PERMISSIONS:
            permissions = _u32(packet, at)[0] & 0o7777
            at += 4
        if flags & ACMODTIME:
            times = _two(packet, at)
            at += 8
    except StructError:
        raise Malformed(ENDS_TOO_EARLY) from None
    if flags & EXTENDED:
        fields = Fields(packet, at)
        for _ in range(2 * fields.u32()):
            fields.view()
    return size, permissions, times, owner


def apply(wanted: Wanted, target: Target, *, follow: bool = True) -> None:
    """Set these on a path or an open file; ``follow`` False means a symbolic link itself, without a size.

    What fails does not keep the rest from being set, as in OpenSSH; the last failure is raised.
    """
    size, permissions, times, owner = wanted
    failures: list[Exception] = []
    if size is not None:
        _try(failures, os.truncate, target, size)
    if permissions is not None:
        _try(failures, _change_mode, target, permissions, follow)
    if times is not None:
        _try(failures, _change_times, target, times, follow)
    if owner is not None:
        _try(failures, _change_owner, target, owner, follow)
    if failures:
        raise failures[-1]


def _try(failures: list[Exception], change: Callable[..., None], *arguments: Any) -> None:
    try:
        change(*arguments)
    except (OSError, OverflowError) as error:  # the second for a size beyond what the kernel counts
        failures.append(error)


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
    return _pack(ALL_ATTRIBUTES, size, uid, gid, mode, accessed & TIME_MASK, changed & TIME_MASK)
