"""What root in a container puts where the gateway looks keeps nobody out, opens nothing, and takes the host nowhere."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arv_ssh.config.session_options import INTERNAL_SFTP
from arv_ssh.errors import Forbidden
from crunch_sshd.runtimes import Command, Output
from crunch_sshd.session import subsystems
from tests.conformance.conftest import StartPlace
from tests.conformance.places import Place
from tests.reading import read

pytestmark = pytest.mark.timeout(300)

SOCKET = "made by the test: the image has nothing for it"
HOLD = "sh -c 'exec 3<>$F; sleep 1000000' >/dev/null 2>&1 &"
HOSTILE = {
    "missing": "",
    "a block device": "mknod $F b 7 0",
    "an endless device": "mknod $F c 1 5",
    "a device whose opening acts": "mknod $F c 10 130",  # /dev/watchdog
    "a pipe": "mkfifo $F",
    "a pipe with a writer": f"mkfifo $F; {HOLD}",
    "a directory": "mkdir $F",
    "a socket": SOCKET,
    "a loop of links": "ln -sfn $F-loop $F; ln -sfn $F $F-loop",
    "a link to a device": "ln -s /dev/zero $F",
    "a link out of the container": "ln -s /proc/1/root/../../../../proc/self/root/etc/passwd $F",
    "a file that cannot be read": "ln -s /proc/1/mem $F",
    "a file that is used up by reading": "ln -s /proc/kmsg $F",
    "a link to a descriptor": "ln -s /proc/self/fd/0 $F",
    "a name that is too long": 'ln -s "$(printf %0300d 0)" $F',
    "100 MB": "head -c 100000000 /dev/zero | tr '\\0' x > $F",
    "100 MB of lines": "yes x:x:1:1:::/bin/sh | head -c 100000000 > $F",
    "no UTF-8": r"printf '\377\376:x:1:1::/:/bin/sh\n' > $F",
    "NUL bytes": r"printf 'a\0b:x:1:1::/:/bin/sh\nroo\0t:x:5:5::/:\n' > $F",
    "a number that is none": "printf 'x:x:²:²:::\\nroot:x:٣:1:::\\n' > $F",
    "numbers without end": 'printf "x:x:%05000d1:0:::\\ny:x:-1:-1:::\\nz:x:4294967295:0:::\\n" 0 > $F',
    "lines that end early": "printf 'x\\nx:\\nx:x\\nx:x:\\nx:x:1\\n:::::::::::\\n+::::::\\n-::::::\\n\\n#\\n' > $F",
    "not to be read": "echo > $F; chmod 0 $F",
}
OPEN, STATUS, NO_SUCH_FILE, PERMISSION_DENIED = 3, 101, 2, 3
READ, WRITE = 1, 2
ALLOWED_TO_ANYBODY = (10, 237)
"""/dev/loop-control, which the host's kernel opens for everybody who gets at it, without any capability."""


@contextmanager
def spoilt(place: Place, name: str, script: str) -> Iterator[None]:
    """Have ``script`` make /etc/``name``, as the container's root; at the end the container has neither file."""
    files = {one: Path(f"/proc/{place.engine.pid(place.container)}/root/etc/{one}") for one in ("passwd", "group")}
    try:
        if script == SOCKET:
            files[name].unlink(missing_ok=True)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(str(files[name]))
        else:
            place.engine.exec("--user", "0", place.container, "sh", "-c", f"F=/etc/{name}; rm -rf $F; {script}")
        yield
    finally:
        # From the host: the engine's own exec reads passwd too, and waits for a pipe there for ever.
        for one in files.values():
            if not one.is_symlink() and one.is_dir():
                one.rmdir()
            else:
                one.unlink(missing_ok=True)


@pytest.mark.parametrize("script", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("name", ["passwd", "group"])
def test_everybody_gets_in(start_place: StartPlace, name: str, script: str) -> None:
    """The default user and root log in and have files, whatever passwd and group are; another name is unknown.

    (Whether a program then starts is the engine's affair: its own exec reads passwd too, and refuses or hangs.)
    """
    place = start_place("--hostname", "spoilt")
    with spoilt(place, name, script):
        for login in ("", "root"):
            account = place.runtime.account(login)
            assert (account.uid, account.gid) == (0, 0)
        with pytest.raises(Forbidden, match="has no user 'stranger'"):
            place.runtime.account("stranger")
        if place.runtime.host() is not None:
            assert opened(place, "/none", READ) == (NO_SUCH_FILE, "No such file or directory")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the kernel's log")
def test_kernels_log(start_place: StartPlace) -> None:
    """What the container links to is not read where that has an effect on the host: /proc/kmsg forgets what it gave."""
    container = start_place("--hostname", "spoilt").runtime.host()
    if container is not None:
        Path("/dev/kmsg").write_text("<7>arv-ssh: a test of what reads this\n")
        assert container.read_text("/proc/kmsg") == ""


@pytest.mark.parametrize("target", ["/loop", "/dev/zero", "/etc", "/" + "x" * 300, "/proc/self/exe/x"])
def test_hostile_shell(start_place: StartPlace, target: str) -> None:
    """A shell that is no program, a loop of links, or a path that cannot be, is missing; logging in goes on."""
    place = start_place("--hostname", "spoiled-shell")
    script = f"ln -sfn loop /loop; echo root:x:0:0::/:{target} > /etc/passwd"
    place.engine.exec("--user", "0", place.container, "sh", "-c", script)
    account = place.runtime.account("")
    assert (account.shell, account.missing_shell) == ("/bin/sh", target)


def opened(place: Place, path: str, flags: int) -> tuple[int, str]:
    """Return the file server's status for opening ``path`` (draft-ietf-secsh-filexfer-02 §6.3, §7)."""
    process = subsystems.start(INTERNAL_SFTP, Command([], place.runtime.account("")), place.runtime)
    try:
        name = path.encode()
        request = struct.pack(">BII", OPEN, 7, len(name)) + name + struct.pack(">II", flags, 0)
        for packet in (b"\1\0\0\0\3", request):
            process.write(struct.pack(">I", len(packet)) + packet)
        heard = bytearray()
        while (output := read(process)) is not None:
            assert output[0] is Output.STDOUT, output
            heard += output[1]
            (size,) = struct.unpack_from(">I", heard)
            if len(heard) > 4 + size:  # the answer to INIT, and some of the next
                kind, _, status, length = struct.unpack_from(">BIII", heard, 8 + size)
                assert kind == STATUS, "it was opened"
                return status, heard[21 + size : 21 + size + length].decode()
        raise AssertionError("the file server ended")
    finally:
        process.hang_up()
        process.wait()
        process.close()


@pytest.mark.parametrize("flags", [READ, WRITE, READ | WRITE])
def test_block_device_of_the_host(start_place: StartPlace, flags: int) -> None:
    """A device file that root in the container made is not opened by the file server, to read or to write."""
    place = start_place()
    place.engine.exec("--user", "0", place.container, "sh", "-c", "[ -e /loop0 ] || mknod /loop0 b 7 0")
    assert opened(place, "/loop0", flags) == (PERMISSION_DENIED, "Block devices are not opened")


def test_device_rules_of_the_container(start_place: StartPlace) -> None:
    """What the container's control group denies is denied to the file server, by the kernel: a device of the host."""
    place = start_place()
    major, minor = ALLOWED_TO_ANYBODY
    place.engine.exec("--user", "0", place.container, "sh", "-c", f"[ -e /device ] || mknod /device c {major} {minor}")
    assert opened(place, "/device", READ) == (PERMISSION_DENIED, "Operation not permitted")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A block device of the host, by its numbers, that holds the text of a passwd with the user ``evil``."""
    image = tmp_path / "disk"
    image.write_bytes(b"evil:x:0:0::/:/bin/sh\n".ljust(1024 * 1024, b"\n"))
    device = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=True).stdout
    try:
        number = os.stat(device.strip()).st_rdev
        yield os.major(number), os.minor(number)
    finally:
        subprocess.run(["losetup", "--detach", device.strip()], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has block devices to give away")
def test_users_on_a_disk_of_the_host(start_place: StartPlace, disk: tuple[int, int]) -> None:
    """A block device at /etc/passwd is not read, though the gateway is root on the host: its users are none."""
    place = start_place("--hostname", "spoilt")
    if place.runtime.host() is None:
        return  # the engine reads the file, and says what it is
    with spoilt(place, "passwd", f"mknod $F b {disk[0]} {disk[1]}"), pytest.raises(Forbidden, match="no user 'evil'"):
        place.runtime.account("evil")
