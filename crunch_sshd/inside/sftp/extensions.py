"""The extensions of OpenSSH (its file PROTOCOL, section 4) that today's clients use."""

from __future__ import annotations

import os
from struct import Struct

from crunch_sshd.inside import files
from crunch_sshd.inside.sftp import attributes, paths, wire
from crunch_sshd.inside.sftp.errors import Refused
from crunch_sshd.inside.sftp.wire import Fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from crunch_sshd.inside.sftp.handles import Handles
    from crunch_sshd.inside.sftp.wire import Answers

    class Session(Protocol):
        """The parts of a client's session that these use; :class:`operations.Operations` is one."""

        answers: Answers
        handles: Handles
        home: bytes

        def done(self, request_id: int) -> None:
            """Answer that the request succeeded."""

        def path(self, request_id: int, path: bytes) -> None:
            """Answer with one path and no attributes."""

COPY_SIZE = 1024 * 1024
"""Bytes that copy-data moves at once."""
FILE_SIZE_LIMIT = 1 << 63
"""Bytes; no file is this long."""
ST_RDONLY, ST_NOSUID = 1, 2
_IDS = Struct(">I")


def posix_rename(session: Session, request_id: int, fields: Fields) -> None:
    """Rename, onto whatever exists."""
    old, new = fields.string(), fields.string()
    os.rename(old, new)
    session.done(request_id)


def statvfs(session: Session, request_id: int, fields: Fields) -> None:
    """Describe the file system that holds a path."""
    session.answers.extended(request_id, _file_system(os.statvfs(fields.string())))


def fstatvfs(session: Session, request_id: int, fields: Fields) -> None:
    """Describe the file system that holds an open file."""
    descriptor, _ = session.handles.named_file(fields.string())
    session.answers.extended(request_id, _file_system(os.fstatvfs(descriptor)))


def _file_system(facts: os.statvfs_result) -> bytes:
    flags = facts.f_flag & (ST_RDONLY | ST_NOSUID)  # the protocol's bits are the same
    values = (
        facts.f_bsize, facts.f_frsize, facts.f_blocks, facts.f_bfree, facts.f_bavail, facts.f_files, facts.f_ffree,
        facts.f_favail, facts.f_fsid, flags, facts.f_namemax,
    )  # fmt: skip
    return b"".join(map(wire.long_number, values))


def hardlink(session: Session, request_id: int, fields: Fields) -> None:
    """Make another name for a file."""
    old, new = fields.string(), fields.string()
    os.link(old, new)
    session.done(request_id)


def fsync(session: Session, request_id: int, fields: Fields) -> None:
    """Wait until an open file is on the disk."""
    descriptor, _ = session.handles.named_file(fields.string(), wire.NO_SUCH_FILE)
    os.fsync(descriptor)
    session.done(request_id)


def lsetstat(session: Session, request_id: int, fields: Fields) -> None:
    """Set attributes of a symbolic link itself."""
    path, wanted = fields.string(), attributes.read(fields.packet, fields.at)
    if wanted[0] is not None:
        raise Refused(wire.BAD_MESSAGE, "A symbolic link has no size to set")
    attributes.apply(wanted, path, follow=False)
    session.done(request_id)


def limits(session: Session, request_id: int, fields: Fields) -> None:
    """Say how much one packet may carry, so that the client uses large packets."""
    values = (wire.MAX_PACKET, wire.MAX_DATA, wire.MAX_DATA, session.handles.limit)
    session.answers.extended(request_id, b"".join(map(wire.long_number, values)))


def expand_path(session: Session, request_id: int, fields: Fields) -> None:
    """Answer as REALPATH for a path that may begin with ``~``."""
    session.path(request_id, paths.real_path(paths.expand_home(fields.string(), session.home)))


def home_directory(session: Session, request_id: int, fields: Fields) -> None:
    """Answer with a user's home directory; an empty name means the session's own user."""
    session.path(request_id, paths.real_path(paths.expand_home(b"~" + fields.string(), session.home)))


def copy_data(session: Session, request_id: int, fields: Fields) -> None:
    """Copy from one open file to another without sending the data; length 0 means everything up to the end."""
    (source, path), offset, length = session.handles.named_file(fields.string()), fields.u64(), fields.u64()
    (target, other_path), target_offset = session.handles.named_file(fields.string()), fields.u64()
    if source == target or path == other_path:
        raise Refused(wire.FAILURE, "A file cannot be copied onto itself")
    end = offset + (length or FILE_SIZE_LIMIT)
    while data := os.pread(source, min(end - offset, COPY_SIZE), offset):
        files.write(target, data, target_offset)
        offset += len(data)
        target_offset += len(data)
    session.done(request_id)  # as OpenSSH, also when the file ended before ``length`` did


def users_groups_by_id(session: Session, request_id: int, fields: Fields) -> None:
    """Answer with the names of users and groups in the container; an unknown id has an empty name."""
    lists = (("/etc/passwd", fields.view()), ("/etc/group", fields.view()))
    session.answers.extended(request_id, b"".join(wire.text(_names(database, ids)) for database, ids in lists))


def _names(database: str, ids: memoryview) -> bytes:
    if len(ids) % _IDS.size:
        raise wire.Malformed("a list of ids ends within one")
    known = paths.names(database)
    return b"".join(wire.text(known.get(b"%d" % number, b"")) for (number,) in _IDS.iter_unpack(ids))


TABLE: dict[bytes, Callable[[Session, int, Fields], None]] = {
    b"posix-rename@openssh.com": posix_rename,
    b"statvfs@openssh.com": statvfs,
    b"fstatvfs@openssh.com": fstatvfs,
    b"hardlink@openssh.com": hardlink,
    b"fsync@openssh.com": fsync,
    b"lsetstat@openssh.com": lsetstat,
    b"limits@openssh.com": limits,
    b"expand-path@openssh.com": expand_path,
    b"copy-data": copy_data,
    b"home-directory": home_directory,
    b"users-groups-by-id@openssh.com": users_groups_by_id,
}
ADVERTISED = [(name, b"2" if b"statvfs" in name else b"1") for name in TABLE]
"""The extensions with their versions, as OpenSSH gives them."""
