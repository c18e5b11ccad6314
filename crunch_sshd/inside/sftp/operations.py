"""The operations of SFTP version 3 on the files that this process sees.

Owns one client's open files and what each request does. A request's method gives exactly one answer, or
raises: OSError and :class:`Refused` become a status, :class:`wire.Malformed` ends the session.
"""

from __future__ import annotations

import errno
import os
from stat import S_ISREG

from crunch_sshd.inside import files
from crunch_sshd.inside.sftp import attributes, extensions, paths, wire
from crunch_sshd.inside.sftp.attributes import Attributes
from crunch_sshd.inside.sftp.errors import Refused, code
from crunch_sshd.inside.sftp.handles import File, Handles
from crunch_sshd.inside.sftp.listing import Directory
from crunch_sshd.inside.sftp.wire import Answers, Fields, Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NO_LINKS = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EPERM)
"""link(2)'s errors on a file system without hard links, or where the kernel protects them."""
# The bits of pflags, §6.3.
PFLAG_READ, PFLAG_WRITE, PFLAG_APPEND, PFLAG_CREAT, PFLAG_TRUNC, PFLAG_EXCL = (1 << bit for bit in range(6))


class Operations:
    """One client's session. ``home`` is what ``~`` stands for; at most ``limit`` handles are open at once."""

    def __init__(self, answers: Answers, home: bytes, limit: int) -> None:
        self.answers = answers
        self.handles = Handles(limit)
        self.home = home
        self._begun = False
        self._requests = 0
        self._listed: Directory | None = None
        self._ahead: Directory | None = None

    def handle(self, packet: memoryview) -> None:
        """Do what a request asks, and answer it. Raises :class:`wire.Malformed`."""
        self._requests += 1
        fields = Fields(packet)
        kind = fields.byte()
        if kind == wire.INIT:
            fields.u32()  # a newer client's version: both sides then speak the lower one
            self._begun = True
            self.answers.version(extensions.ADVERTISED)
            return
        if not self._begun:
            raise Malformed(f"request {kind} came before the client's version")
        request_id = fields.u32()
        operation = OPERATIONS.get(kind)
        try:
            if operation is None:
                raise Refused(wire.OP_UNSUPPORTED, f"Request {kind} is not supported")
            operation(self, request_id, fields)
        except OSError as error:
            self.answers.status(request_id, code(error), error.strerror or "Failure")
        except Refused as refusal:
            self.answers.status(request_id, refusal.code, str(refusal))
        except (ValueError, OverflowError) as error:  # NUL in a path, an offset beyond what the kernel counts
            self.answers.status(request_id, wire.BAD_MESSAGE, f"Invalid argument: {error}")

    def use_pause(self) -> None:
        """Prepare the answer to what the client probably asks next, now that it has all answers."""
        if self._listed is None:
            return
        if self._ahead is not None and self._ahead is not self._listed:
            self._ahead.forget()  # of a thousand open directories, one has an answer in memory
        self._listed.read_ahead(self._requests)
        self._ahead, self._listed = self._listed, None

    def done(self, request_id: int) -> None:
        """Answer that the request succeeded."""
        self.answers.status(request_id, wire.OK, "Success")

    def open(self, request_id: int, fields: Fields) -> None:
        path, pflags, wanted = fields.string(), fields.u32(), Attributes(fields)
        self.handles.check_room()
        mode = 0o666 if wanted.permissions is None else wanted.permissions
        self.answers.handle(request_id, self.handles.add(File(files.open_file(path, _open_flags(pflags), mode), path)))

    def close(self, request_id: int, fields: Fields) -> None:
        self.handles.close(fields.string())
        self.done(request_id)

    def read(self, request_id: int, fields: Fields) -> None:
        file, offset, size = self.handles.file(fields.string()), fields.u64(), fields.u32()
        space = self.answers.data_space(min(size, wire.MAX_DATA))
        got = os.preadv(file.descriptor, [space], offset)
        if got or not size:
            self.answers.data(request_id, got)
        else:
            self.answers.status(request_id, wire.EOF, "End of file")

    def write(self, request_id: int, fields: Fields) -> None:
        file, offset, data = self.handles.file(fields.string()), fields.u64(), fields.view()
        file.write(data, offset)
        self.done(request_id)

    def stat(self, request_id: int, fields: Fields) -> None:
        self.answers.attributes(request_id, attributes.encode(os.stat(fields.string())))

    def lstat(self, request_id: int, fields: Fields) -> None:
        self.answers.attributes(request_id, attributes.encode(os.lstat(fields.string())))

    def fstat(self, request_id: int, fields: Fields) -> None:
        file = self.handles.file(fields.string())
        self.answers.attributes(request_id, attributes.encode(os.fstat(file.descriptor)))

    def setstat(self, request_id: int, fields: Fields) -> None:
        path, wanted = fields.string(), Attributes(fields)
        wanted.apply(path)
        self.done(request_id)

    def fsetstat(self, request_id: int, fields: Fields) -> None:
        file, wanted = self.handles.file(fields.string()), Attributes(fields)
        wanted.apply(file.descriptor)
        self.done(request_id)

    def opendir(self, request_id: int, fields: Fields) -> None:
        self.handles.check_room()
        self.answers.handle(request_id, self.handles.add(Directory(fields.string())))

    def readdir(self, request_id: int, fields: Fields) -> None:
        self._listed = directory = self.handles.directory(fields.string())
        entries = directory.next_entries(self._requests)
        if entries:
            self.answers.names(request_id, entries)
        else:
            self.answers.status(request_id, wire.EOF, "End of file")

    def remove(self, request_id: int, fields: Fields) -> None:
        os.unlink(fields.string())
        self.done(request_id)

    def mkdir(self, request_id: int, fields: Fields) -> None:
        path, wanted = fields.string(), Attributes(fields)
        os.mkdir(path, 0o777 if wanted.permissions is None else wanted.permissions)
        self.done(request_id)

    def rmdir(self, request_id: int, fields: Fields) -> None:
        os.rmdir(fields.string())
        self.done(request_id)

    def realpath(self, request_id: int, fields: Fields) -> None:
        self.path(request_id, paths.real_path(fields.string()))

    def path(self, request_id: int, path: bytes) -> None:
        """Answer with one path and no attributes."""
        self.answers.names(request_id, [wire.entry(path, path, attributes.NONE)])

    def rename(self, request_id: int, fields: Fields) -> None:
        """Rename, never onto something that exists (§6.5)."""
        old, new = fields.string(), fields.string()
        if S_ISREG(os.lstat(old).st_mode):
            _rename_file(old, new)
        else:
            _rename_if_free(old, new)
        self.done(request_id)

    def readlink(self, request_id: int, fields: Fields) -> None:
        self.path(request_id, os.readlink(fields.string()))

    def symlink(self, request_id: int, fields: Fields) -> None:
        # The draft puts the link first. OpenSSH has always put the target first, and every client follows OpenSSH.
        target, link = fields.string(), fields.string()
        os.symlink(target, link)
        self.done(request_id)

    def extended(self, request_id: int, fields: Fields) -> None:
        name = fields.string()
        extension = extensions.TABLE.get(name)
        if extension is None:
            raise Refused(wire.OP_UNSUPPORTED, f"The extension {name[:64].decode('utf-8', 'replace')} is not supported")
        extension(self, request_id, fields)


OPERATIONS: dict[int, Callable[[Operations, int, Fields], None]] = {
    wire.OPEN: Operations.open,
    wire.CLOSE: Operations.close,
    wire.READ: Operations.read,
    wire.WRITE: Operations.write,
    wire.LSTAT: Operations.lstat,
    wire.FSTAT: Operations.fstat,
    wire.SETSTAT: Operations.setstat,
    wire.FSETSTAT: Operations.fsetstat,
    wire.OPENDIR: Operations.opendir,
    wire.READDIR: Operations.readdir,
    wire.REMOVE: Operations.remove,
    wire.MKDIR: Operations.mkdir,
    wire.RMDIR: Operations.rmdir,
    wire.REALPATH: Operations.realpath,
    wire.STAT: Operations.stat,
    wire.RENAME: Operations.rename,
    wire.READLINK: Operations.readlink,
    wire.SYMLINK: Operations.symlink,
    wire.EXTENDED: Operations.extended,
}


def _open_flags(pflags: int) -> int:
    """Return open(2)'s flags for the request's pflags."""
    both = pflags & (PFLAG_READ | PFLAG_WRITE)
    flags = {PFLAG_WRITE: os.O_WRONLY, PFLAG_READ | PFLAG_WRITE: os.O_RDWR}.get(both, os.O_RDONLY)
    for wanted, flag in (
        (PFLAG_APPEND, os.O_APPEND),
        (PFLAG_CREAT, os.O_CREAT),
        (PFLAG_TRUNC, os.O_TRUNC),
        (PFLAG_EXCL, os.O_EXCL),
    ):
        flags |= flag if pflags & wanted else 0
    return flags | os.O_CLOEXEC | os.O_NOCTTY


def _rename_file(old: bytes, new: bytes) -> None:
    """Rename a regular file without a moment in which another's new file could be replaced."""
    try:
        os.link(old, new, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _rename_if_free(old, new)
        return
    try:
        os.unlink(old)
    except OSError:
        os.unlink(new)
        raise


def _rename_if_free(old: bytes, new: bytes) -> None:
    try:
        os.stat(new)
    except OSError:
        os.rename(old, new)
    else:
        raise Refused(wire.FAILURE, os.strerror(errno.EEXIST))
