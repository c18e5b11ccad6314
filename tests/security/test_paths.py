"""SFTP in a container that plays tricks with paths: whatever it does, no file of the host's is reached."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest

from crunch_sshd.runtimes import docker_engine
from crunch_sshd.runtimes.choose import choose
from tests.integration.bare_sshd import serving
from tests.integration.clients import Way
from tests.integration.embedded_cluster import docker
from tests.integration.inside import execute, running
from tests.security.conftest import Site
from tests.timing import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the gateway needs root to enter a container's namespaces")

OURS = b"of the container\n"
HOSTS = b"of the host\n"
ROUNDS = 300

FLIP = r"""
import os, sys, threading
targets = sys.argv[1:]
def flip():
    number = 0
    while True:
        number += 1
        os.symlink(targets[number % len(targets)], "/tmp/next")
        os.rename("/tmp/next", "/tmp/flipping")
threading.Thread(target=flip, daemon=True).start()
print(0, flush=True)
sys.stdin.read()
"""
"""Points /tmp/flipping to each of its arguments in turn, as fast as it can."""

JAIL = r"""
import os, signal, time
def move(*_):
    os.makedirs("/tmp/jail/etc", exist_ok=True)
    os.symlink("../../../../../../../..", "/tmp/jail/up")
    with open("/tmp/jail/etc/passwd", "w") as file:
        file.write("root:x:0:0::/:/bin/sh\n")
    os.chroot("/tmp/jail")
    os.chdir("/")
    os.mkdir("/moved")
signal.signal(signal.SIGUSR1, move)
print("ready", flush=True)
while True:
    time.sleep(1000)
"""
"""A container's first process, which takes another root directory on SIGUSR1."""


@pytest.fixture
def marker() -> Iterator[Path]:
    """A file of the host's; no container has anything at its path."""
    with tempfile.TemporaryDirectory(prefix="arv-ssh-of-the-host-", dir="/var/tmp") as directory:
        path = Path(directory) / "marker"
        path.write_bytes(HOSTS)
        os.chmod(directory, 0o755)
        yield path


@contextmanager
def files(site: Site, uuid: str) -> Iterator[paramiko.SFTPClient]:
    """Give an SFTP client in a container."""
    with Way(site.ssh, uuid).by_paramiko() as transport, transport.open_sftp_client() as client:
        yield client


def read(client: paramiko.SFTPClient, path: str) -> bytes:
    """Return a file's content, b"" where it cannot be had."""
    try:
        with client.open(path) as file:
            return file.read()
    except OSError:
        return b""


def ways_out(path: Path) -> list[str]:
    """Return what links may lead to, to get at the host's file: climbing, absolute, through /proc."""
    return [
        str(path), "../" * 40 + str(path)[1:], f"/proc/1/root{path}", f"/proc/1/root/../../..{path}",
        f"/proc/1/cwd/../../../..{path}", f"/proc/self/root{path}", f"/proc/thread-self/root{path}",
    ]  # fmt: skip


def test_links_to_the_host(site: Site, marker: Path) -> None:
    """No link leads to the host's file, nor does its path without a link; the server can read what is there."""
    execute(site.debian, "sh", "-c", "printf 'of the container\\n' > /tmp/ours; mkdir -p /tmp/links")
    with files(site, site.debian) as client:
        assert read(client, "/tmp/ours") == OURS
        for number, target in enumerate(ways_out(marker)):
            client.symlink(target, f"/tmp/links/{number}")
            assert read(client, f"/tmp/links/{number}") == b""
            assert read(client, target) == b""
    execute(site.debian, "rm", "-r", "/tmp/links")


def test_a_link_that_changes_between_look_and_open(site: Site, marker: Path) -> None:
    """A link that leads to another place each time that it is followed leads to the container's places only."""
    execute(site.debian, "sh", "-c", "printf 'of the container\\n' > /tmp/ours")
    with running(site.debian, FLIP, "/tmp/ours", *ways_out(marker)), files(site, site.debian) as client:
        wait_for(lambda: read(client, "/tmp/flipping") == OURS, "the link to lead to the container's file")
        seen = set()
        for _ in range(ROUNDS):
            try:
                client.stat("/tmp/flipping")
            except OSError:
                pass
            seen.add(read(client, "/tmp/flipping"))
    assert seen == {OURS, b""}


@pytest.mark.parametrize(
    "path",
    ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/sys/kernel/uevent_helper", "/proc/kcore",
     "/sys/fs/cgroup/devices/devices.allow", "/proc/1/mem", "/dev/mem", "/dev/kmsg"],
)  # fmt: skip
def test_the_kernels_files(site: Site, path: str) -> None:
    """What the container's root may not write of the kernel's, SFTP does not write for root either."""
    with files(site, site.debian) as client:
        with pytest.raises(OSError):
            with client.open(path, "r+") as file:
                file.write(b"x")
        names = [name for name in client.listdir("/proc") if name.isdigit()]
    assert str(os.getpid()) not in names


@pytest.fixture
def jail() -> Iterator[str]:
    """A container without an init, so that its first process is the program that takes another root directory."""
    container = docker("run", "--detach", "--network", "none", "arv-ssh/debian:test", "python3", "-c", JAIL)
    wait_for(lambda: docker("logs", container) == "ready", "the program")
    yield container
    docker("rm", "--force", container)


def test_root_directory_replaced(jail: str, marker: Path) -> None:
    """A container whose first process takes another root: open sessions keep theirs, new ones are in the container."""
    client = docker_engine.connect()
    with serving(choose("auto", client, jail, "zzzzz-dz642-xxxxxxxxxxxxxxx")) as server:
        with server.transport() as first, first.open_sftp_client() as before:
            client_sees = set(before.listdir("/"))
            docker("kill", "--signal", "USR1", jail)
            wait_for(lambda: "jail" in before.listdir("/tmp"), "the other root directory")
            wait_for(lambda: "moved" in before.listdir("/tmp/jail"), "the program to be in it")
            assert set(before.listdir("/")) == client_sees
            with server.transport() as second, second.open_sftp_client() as after:
                for target in ("/up", *ways_out(marker), *(f"/up{way}" for way in ways_out(marker))):
                    assert read(after, target) == b""
                assert set(after.listdir("/up")) <= client_sees | {"etc", "up", "moved"}
    client.close()
