"""Our SFTP server and OpenSSH's, asked the same on the same files, must answer the same."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crunch_sshd.inside.sftp import wire
from tests.unit.crunch_sshd.inside.sftp.client import OURS, Answer, Client

OPENSSH = "/usr/lib/openssh/sftp-server"
READ, WRITE, APPEND, CREAT, TRUNC, EXCL = (1 << bit for bit in range(6))
SIZE, UIDGID, PERMISSIONS, ACMODTIME = 1, 2, 4, 8

pytestmark = pytest.mark.skipif(not os.path.exists(OPENSSH), reason=f"{OPENSSH} is not installed")

Scenario = Callable[[Client], list[Answer]]


def opened(client: Client, path: bytes, pflags: int, *attributes: int) -> Answer:
    return client.ask(wire.OPEN, path, pflags, *(attributes or (0,)))


def handle_requests(client: Client, handle: bytes) -> list[Answer]:
    return [
        client.ask(wire.READ, handle, (0,), 10),
        client.ask(wire.WRITE, handle, (0,), b"x"),
        client.ask(wire.FSTAT, handle),
        client.ask(wire.FSETSTAT, handle, 0),
        client.ask(wire.READDIR, handle),
        client.extended(b"fsync@openssh.com", handle),
        client.extended(b"fstatvfs@openssh.com", handle),
        client.ask(wire.CLOSE, handle),
        client.ask(wire.CLOSE, handle),
    ]


def opening(path: bytes, pflags: int, *attributes: int) -> Scenario:
    return lambda client: [opened(client, path, pflags, *attributes)]


def one(kind: int, *fields: int | bytes | tuple[int]) -> Scenario:
    return lambda client: [client.ask(kind, *fields)]


def extension(name: bytes, *fields: int | bytes | tuple[int]) -> Scenario:
    return lambda client: [client.extended(name, *fields)]


def reading(client: Client) -> list[Answer]:
    handle = client.open(b"file", READ)
    asked = [(0, 5), (5, 100), (13, 1), (14, 1), (1 << 40, 1), (0, 0), (0, 1 << 31)]
    return [client.ask(wire.READ, handle, (offset,), size) for offset, size in asked]


def writing(client: Client) -> list[Answer]:
    handle = client.open(b"new", READ | WRITE | CREAT, 0)
    return [
        client.ask(wire.WRITE, handle, (0,), b"hello"),
        client.ask(wire.WRITE, handle, (100,), b"sparse"),
        client.ask(wire.WRITE, handle, (0,), b""),
        client.ask(wire.READ, handle, (0,), 200),
        client.ask(wire.CLOSE, handle),
        client.ask(wire.STAT, b"new"),
    ]


def appending(client: Client) -> list[Answer]:
    handle = client.open(b"file", WRITE | APPEND)
    written = client.ask(wire.WRITE, handle, (0,), b"end")
    return [written, client.ask(wire.READ, client.open(b"file"), (0,), 100)]


def listing(client: Client) -> list[Answer]:
    handle = client.ask(wire.OPENDIR, b".").text
    return [client.ask(wire.READDIR, handle), client.ask(wire.READDIR, handle), *handle_requests(client, handle)]


def copying(length: int, *, same: bool = False) -> Scenario:
    def scenario(client: Client) -> list[Answer]:
        source = client.open(b"file", READ)
        target = client.open(b"file" if same else b"copy", WRITE | CREAT)
        copied = client.extended(b"copy-data", source, (2,), (length,), target, (3,))
        return [copied, client.ask(wire.STAT, b"copy")]

    return scenario


SCENARIOS: dict[str, Scenario] = {
    "open": opening(b"file", READ),
    "open missing": opening(b"missing", READ),
    "open in a file": opening(b"file/x", READ),
    "open a directory": opening(b"dir", READ),
    "open a directory to write": opening(b"dir", WRITE),
    "open no flags": opening(b"file", 0),
    "open a dangling link": opening(b"dangling", READ),
    "open a loop": opening(b"loop", READ),
    "open a long name": opening(b"x" * 300, READ),
    "open a longer name": opening(b"x" * 5000, READ),
    "open exclusively": opening(b"file", WRITE | CREAT | EXCL),
    "open and make": lambda client: [opened(client, b"new", WRITE | CREAT), client.ask(wire.STAT, b"new")],
    "open with a mode": lambda client: [
        opened(client, b"new", WRITE | CREAT, PERMISSIONS, 0o4751),
        client.ask(wire.STAT, b"new"),
    ],
    "open and truncate": lambda client: [opened(client, b"file", WRITE | TRUNC), client.ask(wire.STAT, b"file")],
    "an open file's requests": lambda client: handle_requests(client, client.open(b"file", READ | WRITE)),
    "a read-only file's requests": lambda client: handle_requests(client, client.open(b"file", READ)),
    "no handle's requests": lambda client: handle_requests(client, b"nope"),
    "an empty handle's requests": lambda client: handle_requests(client, b""),
    "a short handle's requests": lambda client: handle_requests(client, client.open(b"file")[:3]),
    "a long handle's requests": lambda client: handle_requests(client, client.open(b"file") + b"x"),
    "a directory's handle": lambda client: handle_requests(client, client.open(b"dir")),
    "read": reading,
    "write": writing,
    "append": appending,
    "list": listing,
    "opendir missing": one(wire.OPENDIR, b"missing"),
    "opendir a file": one(wire.OPENDIR, b"file"),
    "stat": one(wire.STAT, b"link"),
    "stat empty": one(wire.STAT, b""),
    "stat missing": one(wire.STAT, b"missing"),
    "stat in a file": one(wire.STAT, b"file/x"),
    "stat a directory": one(wire.STAT, b"dir"),
    "lstat": one(wire.LSTAT, b"link"),
    "lstat dangling": one(wire.LSTAT, b"dangling"),
    "setstat": lambda client: [
        client.ask(wire.SETSTAT, b"file", SIZE | PERMISSIONS | ACMODTIME, (5,), 0o640, 1, 2),
        client.ask(wire.STAT, b"file"),
    ],
    "setstat owner": lambda client: [
        client.ask(wire.SETSTAT, b"file", UIDGID, os.getuid(), os.getgid()),
        client.ask(wire.STAT, b"file"),
    ],
    "fsetstat": lambda client: [
        client.ask(wire.FSETSTAT, client.open(b"file", WRITE), SIZE | PERMISSIONS | ACMODTIME, (5,), 0o640, 1, 2),
        client.ask(wire.STAT, b"file"),
    ],
    "fsetstat one fails": lambda client: [
        client.ask(wire.FSETSTAT, client.open(b"file", READ), SIZE | PERMISSIONS, (5,), 0o600),
        client.ask(wire.STAT, b"file"),
    ],
    "setstat missing": one(wire.SETSTAT, b"missing", PERMISSIONS, 0o600),
    "setstat one fails": lambda client: [
        client.ask(wire.SETSTAT, b"dir", SIZE | PERMISSIONS, (5,), 0o700),
        client.ask(wire.STAT, b"dir"),
    ],
    "setstat a size that no file has": lambda client: [
        client.ask(wire.SETSTAT, b"file", SIZE | PERMISSIONS, (1 << 63,), 0o640),
        client.ask(wire.STAT, b"file"),
    ],
    "setstat extended": one(wire.SETSTAT, b"file", 0x80000000, 1, b"a@b", b"c"),
    "lsetstat": lambda client: [
        client.extended(b"lsetstat@openssh.com", b"link", ACMODTIME, 3, 4),
        client.ask(wire.LSTAT, b"link"),
        client.extended(b"lsetstat@openssh.com", b"file", PERMISSIONS, 0o600),
        client.ask(wire.STAT, b"file"),
    ],
    "lsetstat a size": extension(b"lsetstat@openssh.com", b"link", SIZE, (1,)),
    "lsetstat a link's mode": extension(b"lsetstat@openssh.com", b"link", PERMISSIONS, 0o600),
    "remove": lambda client: [client.ask(wire.REMOVE, b"file"), client.ask(wire.STAT, b"file")],
    "remove a link": lambda client: [client.ask(wire.REMOVE, b"link"), client.ask(wire.STAT, b"file")],
    "remove missing": one(wire.REMOVE, b"missing"),
    "remove a directory": one(wire.REMOVE, b"dir"),
    "mkdir": lambda client: [client.ask(wire.MKDIR, b"new", 0), client.ask(wire.STAT, b"new")],
    "mkdir with a mode": lambda client: [
        client.ask(wire.MKDIR, b"new", PERMISSIONS, 0o1777),
        client.ask(wire.STAT, b"new"),
    ],
    "mkdir existing": one(wire.MKDIR, b"dir", 0),
    "mkdir below nothing": one(wire.MKDIR, b"missing/new", 0),
    "rmdir": one(wire.RMDIR, b"empty"),
    "rmdir full": one(wire.RMDIR, b"dir"),
    "rmdir a file": one(wire.RMDIR, b"file"),
    "realpath": one(wire.REALPATH, b"."),
    "realpath empty": one(wire.REALPATH, b""),
    "realpath of a link": one(wire.REALPATH, b"dir/../link"),
    "realpath of a link to a directory": one(wire.REALPATH, b"dirlink/inner"),
    "realpath not existing": one(wire.REALPATH, b"missing"),
    "realpath not existing with a slash": one(wire.REALPATH, b"missing/"),
    "realpath below nothing": one(wire.REALPATH, b"missing/x"),
    "realpath above nothing": one(wire.REALPATH, b"missing/.."),
    "realpath in a file": one(wire.REALPATH, b"file/x"),
    "realpath above a file": one(wire.REALPATH, b"file/.."),
    "realpath with a slash": one(wire.REALPATH, b"dir/"),
    "realpath dangling": one(wire.REALPATH, b"dangling"),
    "realpath below dangling": one(wire.REALPATH, b"dangling/x"),
    "realpath loop": one(wire.REALPATH, b"loop"),
    "realpath slashes": one(wire.REALPATH, b"//usr///lib//../bin/."),
    "realpath above the root": one(wire.REALPATH, b"/../../etc"),
    "realpath of the root": one(wire.REALPATH, b"/"),
    "rename": lambda client: [client.ask(wire.RENAME, b"file", b"new"), client.ask(wire.STAT, b"new")],
    "rename onto a file": one(wire.RENAME, b"file", b"dir/inner"),
    "rename onto a directory": one(wire.RENAME, b"file", b"dir"),
    "rename a directory": lambda client: [client.ask(wire.RENAME, b"dir", b"new"), client.ask(wire.STAT, b"new/inner")],
    "rename a directory onto one": one(wire.RENAME, b"dir", b"empty"),
    "rename a link": lambda client: [client.ask(wire.RENAME, b"link", b"new"), client.ask(wire.LSTAT, b"new")],
    "rename missing": one(wire.RENAME, b"missing", b"new"),
    "posix-rename onto a file": extension(b"posix-rename@openssh.com", b"file", b"dir/inner"),
    "posix-rename missing": extension(b"posix-rename@openssh.com", b"missing", b"x"),
    "readlink": one(wire.READLINK, b"link"),
    "readlink a file": one(wire.READLINK, b"file"),
    "readlink missing": one(wire.READLINK, b"missing"),
    "symlink": lambda client: [client.ask(wire.SYMLINK, b"target", b"new"), client.ask(wire.READLINK, b"new")],
    "symlink existing": one(wire.SYMLINK, b"target", b"file"),
    "hardlink": lambda client: [
        client.extended(b"hardlink@openssh.com", b"file", b"new"),
        client.ask(wire.STAT, b"new"),
    ],
    "hardlink of a link": lambda client: [
        client.extended(b"hardlink@openssh.com", b"link", b"new"),
        client.ask(wire.LSTAT, b"new"),
    ],
    "hardlink existing": extension(b"hardlink@openssh.com", b"file", b"dir/inner"),
    "expand-path": extension(b"expand-path@openssh.com", b"dir/../link"),
    "expand-path of root": extension(b"expand-path@openssh.com", b"~root/x"),
    "expand-path of nobody": extension(b"expand-path@openssh.com", b"~nosuchuser/x"),
    "users-groups-by-id": extension(
        b"users-groups-by-id@openssh.com", bytes(4) + wire.number(1) + wire.number(54321), bytes(4)
    ),
    "copy-data": copying(4),
    "copy-data to the end": copying(0),
    "copy-data beyond the end": copying(10_000),
    "copy-data onto itself": copying(4, same=True),
    "an unknown extension": extension(b"nothing@example.org"),
}


def make_tree(root: Path) -> None:
    (root / "dir").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "file").write_bytes(b"fourteen bytes")
    (root / "dir" / "inner").write_bytes(b"inner")
    (root / "link").symlink_to("file")
    (root / "dirlink").symlink_to("dir")
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    for name in ("file", "dir/inner", "link", "dirlink", "dangling", "loop", "dir", "empty", "."):
        os.utime(root / name, (1_600_000_000, 1_600_000_000), follow_symlinks=False)


def told(answer: Answer, root: Path) -> object:
    """What an answer says, without what may differ: texts, handles, times of access and change, free blocks."""
    if answer.kind == wire.STATUS:
        return ("status", answer.code)
    if answer.kind == wire.HANDLE:
        return "handle"
    if answer.kind == wire.NAME:
        base = os.fsencode(root)
        return sorted(
            (name.replace(base, b"ROOT"), long_name.replace(base, b"ROOT")[:40], attributes[:40])
            for name, long_name, attributes in answer.names()
            if name != b".."  # not of the tree
        )
    if answer.kind == wire.ATTRS:
        # The time of change only where it was set: what is being made now may come a second later in the other.
        changed = answer.content[28:]
        return ("attributes", answer.content[:24], changed if changed < wire.number(int(time.time()) - 3600) else b"")
    if answer.kind == wire.EXTENDED_REPLY and len(answer.content) == 88:
        return ("file system", answer.content[:24], answer.content[64:])
    return (answer.kind, answer.content)


@pytest.mark.parametrize("name", SCENARIOS)
def test_same_answers(name: str, tmp_path: Path) -> None:
    """What OpenSSH's server answers, ours does."""
    heard = []
    for command in ([OPENSSH], OURS):
        root = tmp_path / "root"
        make_tree(root)
        with Client(command, root) as client:
            heard.append([told(answer, root) for answer in SCENARIOS[name](client)])
        shutil.rmtree(root)
    assert heard[1] == heard[0]


def test_long_name(tmp_path: Path) -> None:
    """The line for a listing is OpenSSH's to the byte, for old files and new, small and large, of every kind."""
    make_tree(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "new").touch(0o4755)
    (tmp_path / "sticky").mkdir(0o1777)
    with open(tmp_path / "large", "wb") as file:
        file.truncate(123_456_789_012)
    if os.geteuid() == 0:
        os.chown(tmp_path / "large", 123456789, 1234567890)
    half_a_year = int(time.time()) - 365 * 24 * 60 * 60 // 2
    for changed in (-1, 0, half_a_year - 60, half_a_year + 60, int(time.time()) + 60, 4_000_000_000, 1 << 40):
        (tmp_path / f"changed-{changed}").touch()
        os.utime(tmp_path / f"changed-{changed}", (changed, changed))
    lines = []
    for command in ([OPENSSH], OURS):
        with Client(command, tmp_path) as client:
            handle = client.ask(wire.OPENDIR, b".").text
            lines.append(sorted(long_name for _, long_name, _ in client.ask(wire.READDIR, handle).names()))
    assert lines[1] == lines[0]


def test_version(tmp_path: Path) -> None:
    """Every extension that OpenSSH announces, ours announces too, with the same version."""
    announced = []
    for command in ([OPENSSH], OURS):
        with Client(command, tmp_path) as client:
            assert client.version.request_id == wire.VERSION
            fields = wire.Fields(memoryview(client.version.content))
            pairs = set()
            while not fields.empty:
                pairs.add((fields.string(), fields.string()))
            announced.append(pairs)
    assert announced[0] <= announced[1]


def test_limits(tmp_path: Path) -> None:
    """The limits are OpenSSH's but for the number of handles."""
    with Client([OPENSSH], tmp_path) as theirs, Client(OURS, tmp_path) as ours:
        wanted = theirs.extended(b"limits@openssh.com").content
        assert ours.extended(b"limits@openssh.com").content[:24] == wanted[:24]
