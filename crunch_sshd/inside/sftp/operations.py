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
from crunch_sshd.inside.sftp.errors import Refused, code
from crunch_sshd.inside.sftp.handles import Handles
from crunch_sshd.inside.sftp.listing import Directory
from crunch_sshd.inside.sftp.wire import CONTENT, HANDLE_SIZE, Answers, Fields, Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NO_LINKS = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EPERM)
"""link(2)'s errors on a file system without hard links, or where the kernel protects them."""
# The bits of pflags, §6.3.
PFLAG_READ, PFLAG_WRITE, PFLAG_APPEND, PFLAG_CREAT, PFLAG_TRUNC, PFLAG_EXCL = (1 << bit for bit in range(6))
ALL_PFLAGS = (1 << 6) - 1
ALL_KINDS = range(256)
AFTER_HANDLE = CONTENT + HANDLE_SIZE
"""Where in a request the fields after a handle of ours begin."""
AFTER_PLACE = AFTER_HANDLE + 8 + 4
"""Where in WRITE the data begins: after offset and size."""


class Operations:
    """One client's session. ``home`` is what ``~`` stands for; at most ``limit`` handles are open at once."""

    def __init__(self, answers: Answers, home: bytes, limit: int) -> None:
        self.answers = answers
        self.handles = Handles(limit)
        self.home = home
        self.listed: Directory | None = None
        """The directory that the last requests listed; :meth:`use_pause` wants it."""
        self._operations = BEFORE_INIT
        self._requests = 0
        self._ahead: Directory | None = None

    def handle(self, kind: int, request_id: int, packet: memoryview) -> None:
        """Do what a request asks, and answer it. ``packet`` is all of it. Raises :class:`wire.Malformed`."""
        self._requests += 1
        try:
            self._operations[kind](self, request_id, packet)
        except OSError as error:
            self._fail(request_id, code(error), error.strerror or "Failure")
        except Refused as refusal:
            self._fail(request_id, refusal.code, str(refusal))
        except (ValueError, OverflowError) as error:  # NUL in a path, an offset beyond what the kernel counts
            self._fail(request_id, wire.BAD_MESSAGE, f"Invalid argument: {error}")

    def use_pause(self, listed: Directory) -> None:
        """Prepare the answer to what the client probably asks next, now that it has all answers."""
        if self._ahead is not None and self._ahead is not listed:
            self._ahead.forget()  # of a thousand open directories, one has an answer in memory
        listed.read_ahead(self._requests)
        self._ahead, self.listed = listed, None

    def done(self, request_id: int) -> None:
        """Answer that the request succeeded."""
        self.answers.done(request_id)

    def _fail(self, request_id: int, code: int, sentence: str) -> None:
        self.answers.add(wire.STATUS, request_id, wire.status(code, sentence))

    def init(self, _version: int, packet: memoryview) -> None:
        self._operations = OPERATIONS  # a newer client's version: both sides then speak the lower one
        self.answers.version(extensions.ADVERTISED)

    def not_begun(self, request_id: int, packet: memoryview) -> None:
        raise Malformed(f"request {packet[0]} came before the client's version")

    def unsupported(self, request_id: int, packet: memoryview) -> None:
        raise Refused(wire.OP_UNSUPPORTED, f"Request {packet[0]} is not supported")

    def open(self, request_id: int, packet: memoryview) -> None:
        path, at = wire.string(packet)
        pflags = wire.u32(packet, at)
        _, mode, _, _ = attributes.read(packet, at + 4)
        self.handles.check_room()
        mode = 0o666 if mode is None else mode
        handle = self.handles.add_file(files.open_file(path, OPEN_FLAGS[pflags & ALL_PFLAGS], mode), path)
        self.answers.handle(request_id, handle)

    def close(self, request_id: int, packet: memoryview) -> None:
        self.handles.close(packet)
        self.answers.done(request_id)

    def read(self, request_id: int, packet: memoryview) -> None:
        descriptor, _ = self.handles.file(packet)
        offset, size = wire.place(packet)
        space = self.answers.data_space(size if size < wire.MAX_DATA else wire.MAX_DATA)
        got = os.preadv(descriptor, [space], offset)
        if got or not size:
            self.answers.data(request_id, got)
        else:
            self.answers.add(wire.STATUS, request_id, wire.END_OF_FILE)

    def write(self, request_id: int, packet: memoryview) -> None:
        descriptor, _ = self.handles.file(packet)
        offset, size = wire.place(packet)
        data = packet[AFTER_PLACE : AFTER_PLACE + size]
        if len(data) < size:
            raise Malformed(wire.TOO_LONG)
        files.write(descriptor, data, offset)
        self.answers.done(request_id)

    def stat(self, request_id: int, packet: memoryview) -> None:
        path, _ = wire.string(packet)
        self.answers.attributes(request_id, os.stat(path))

    def lstat(self, request_id: int, packet: memoryview) -> None:
        path, _ = wire.string(packet)
        self.answers.attributes(request_id, os.lstat(path))

    def fstat(self, request_id: int, packet: memoryview) -> None:
        descriptor, _ = self.handles.file(packet)
        self.answers.attributes(request_id, os.fstat(descriptor))

    def setstat(self, request_id: int, packet: memoryview) -> None:
        path, at = wire.string(packet)
        attributes.apply(attributes.read(packet, at), path)
        self.done(request_id)

    def fsetstat(self, request_id: int, packet: memoryview) -> None:
        descriptor, _ = self.handles.file(packet)
        attributes.apply(attributes.read(packet, AFTER_HANDLE), descriptor)
        self.answers.done(request_id)

    def opendir(self, request_id: int, packet: memoryview) -> None:
        self.handles.check_room()
        handle = self.handles.add_directory(Directory(Fields(packet, CONTENT).string()))
        self.answers.handle(request_id, handle)

    def readdir(self, request_id: int, packet: memoryview) -> None:
        self.listed = directory = self.handles.directory(packet)
        entries = directory.next_entries(self._requests)
        if entries:
            self.answers.names(request_id, entries)
        else:
            self.answers.add(wire.STATUS, request_id, wire.END_OF_FILE)

    def remove(self, request_id: int, packet: memoryview) -> None:
        os.unlink(Fields(packet, CONTENT).string())
        self.done(request_id)

    def mkdir(self, request_id: int, packet: memoryview) -> None:
        path, at = wire.string(packet)
        _, mode, _, _ = attributes.read(packet, at)
        os.mkdir(path, 0o777 if mode is None else mode)
        self.done(request_id)

    def rmdir(self, request_id: int, packet: memoryview) -> None:
        os.rmdir(Fields(packet, CONTENT).string())
        self.done(request_id)

    def realpath(self, request_id: int, packet: memoryview) -> None:
        self.path(request_id, paths.real_path(Fields(packet, CONTENT).string()))

    def path(self, request_id: int, path: bytes) -> None:
        """Answer with one path and no attributes."""
        self.answers.names(request_id, [wire.entry(path, path, attributes.NONE)])

    def rename(self, request_id: int, packet: memoryview) -> None:
        """Rename, never onto something that exists (§6.5)."""
        fields = Fields(packet, CONTENT)
        old, new = fields.string(), fields.string()
        if S_ISREG(os.lstat(old).st_mode):
            _rename_file(old, new)
        else:
            _rename_if_free(old, new)
        self.done(request_id)

    def readlink(self, request_id: int, packet: memoryview) -> None:
        self.path(request_id, os.readlink(Fields(packet, CONTENT).string()))

    def symlink(self, request_id: int, packet: memoryview) -> None:
        # The draft puts the link first. OpenSSH has always put the target first, and every client follows OpenSSH.
        fields = Fields(packet, CONTENT)
        target, link = fields.string(), fields.string()
        os.symlink(target, link)
        self.done(request_id)

    def extended(self, request_id: int, packet: memoryview) -> None:
        fields = Fields(packet, CONTENT)
        name = fields.string()
        extension = extensions.TABLE.get(name)
        if extension is None:
            raise Refused(wire.OP_UNSUPPORTED, f"The extension {name[:64].decode('utf-8', 'replace')} is not supported")
        extension(self, request_id, fields)


def _table(
    operations: dict[int, Callable[[Operations, int, memoryview], None]],
    other: Callable[[Operations, int, memoryview], None],
) -> Sequence[Callable[[Operations, int, memoryview], None]]:
    """Return the operation of each kind of request; of those not in ``operations`` it is ``other``."""
    return [operations.get(kind, other) for kind in ALL_KINDS]


BEFORE_INIT = _table({wire.INIT: Operations.init}, Operations.not_begun)
OPERATIONS = _table({
    wire.INIT: Operations.init,
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
}, Operations.unsupported)  # fmt: skip


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


OPEN_FLAGS = [_open_flags(pflags) for pflags in range(ALL_PFLAGS + 1)]
"""open(2)'s flags for each combination of pflags."""


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
