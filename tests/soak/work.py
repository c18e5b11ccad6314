"""The kinds of work that users do all day, each checked to the byte. Each function does one piece of it."""

from __future__ import annotations

import hashlib
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.integration.terminal import TerminalSession
from tests.timing import DEADLINE, wait_for

LARGEST = 4 << 20
ABORT_AFTER = 1.5
"""Seconds within which an aborted session is killed, at a moment of chance."""


@dataclass
class Place:
    """A container, the ssh_config that leads there, and a directory of one worker's own on this side."""

    config: Path
    uuid: str
    directory: Path
    chance: random.Random

    def ssh(self, *words: str, options: tuple[str, ...] = ()) -> list[str]:
        """Return a command line of ssh."""
        return ["ssh", "-F", str(self.config), *options, self.uuid, *words]

    def data(self) -> bytes:
        """Return bytes of any number up to :data:`LARGEST`."""
        return self.chance.randbytes(self.chance.randrange(LARGEST))

    def name(self) -> str:
        """Return a file name that no other piece of work has."""
        return f"soak-{self.chance.getrandbits(64):x}"


def _run(command: list[str], given: bytes = b"") -> bytes:
    done = subprocess.run(command, input=given, capture_output=True, timeout=DEADLINE)
    assert done.returncode == 0, (command, done.returncode, done.stderr)
    return done.stdout


def command(place: Place) -> None:
    """Bytes go through a program and come back; the exit status is the program's."""
    data = place.data()
    assert _run(place.ssh("cat"), data) == data
    status = place.chance.randrange(1, 200)
    assert subprocess.run(place.ssh(f"exit {status}"), timeout=DEADLINE).returncode == status


def connect(place: Place) -> None:
    """A connection that does next to nothing."""
    assert _run(place.ssh("echo in")) == b"in\n"


def terminal(place: Place) -> None:
    """A shell on a terminal, resized while it runs."""
    with TerminalSession(place.ssh(options=("-tt",)), (24, 80)) as session:
        session.type("echo be''gin\r")
        session.expect("begin")
        session.resize(place.chance.randrange(10, 99), place.chance.randrange(20, 200))
        session.type("echo e''nd; exit\r")
        session.expect("end")


def copies(place: Place) -> None:
    """scp there and back, with checksums on both sides."""
    data, there = place.data(), f"/tmp/{place.name()}"
    ours, back = place.directory / "there", place.directory / "back"
    ours.write_bytes(data)
    scp = ["scp", "-q", "-F", str(place.config)]
    _run([*scp, str(ours), f"{place.uuid}:{there}"])
    assert _run(place.ssh(f"sha256sum {there}")).split()[0].decode() == hashlib.sha256(data).hexdigest()
    _run([*scp, f"{place.uuid}:{there}", str(back)])
    assert back.read_bytes() == data
    _run(place.ssh(f"rm {there}"))


def sftp(place: Place) -> None:
    """A batch of sftp: put, list, rename, get, remove."""
    data, name = place.data(), place.name()
    ours, back = place.directory / "put", place.directory / "got"
    ours.write_bytes(data)
    there = f"/tmp/{name}"
    batch = [f"put {ours} {there}", "ls -l /tmp", f"rename {there} {there}2", f"get {there}2 {back}", f"rm {there}2"]
    _run(["sftp", "-q", "-b", "-", "-F", str(place.config), place.uuid], "\n".join([*batch, ""]).encode())
    assert back.read_bytes() == data


def forward(place: Place) -> None:
    """Bytes through -L to a listener of -R on the same connection, and so out of the container again to this side."""
    data = place.data()
    with socket.create_server(("127.0.0.1", 0)) as server:
        far, near = f"/tmp/{place.name()}", place.directory / "near"
        near.unlink(missing_ok=True)
        ways = ("-N", "-R", f"{far}:127.0.0.1:{server.getsockname()[1]}", "-L", f"{near}:{far}")
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        with subprocess.Popen(place.ssh(options=(*ways, "-o", "ExitOnForwardFailure=yes"))) as ssh:
            try:
                wait_for(near.exists, "the forwarded socket")
                wait_for(lambda: _listens(place, far), "the socket in the container")
                assert _through(near, data) == data
            finally:
                ssh.terminate()


def _echo(server: socket.socket) -> None:
    try:
        connection, _ = server.accept()
    except OSError:
        return
    with connection:
        while words := connection.recv(65536):
            connection.sendall(words)


def _listens(place: Place, path: str) -> bool:
    """Say whether a socket in the container is listened at; a file is there a moment before that is so."""
    return path.encode() in _run(place.ssh("grep -s 00010000 /proc/net/unix || true"))


def _send(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def _through(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE)
        sock.connect(str(path))
        sender = threading.Thread(target=_send, args=(sock, data))
        sender.start()
        found = b"".join(iter(lambda: sock.recv(65536), b""))
        sender.join(DEADLINE)
        return found


def shared(place: Place) -> None:
    """Several sessions on one connection (ControlMaster), some of them at once."""
    control = place.directory / "master"
    master = ("-o", f"ControlPath={control}")
    with subprocess.Popen(place.ssh(options=(*master, "-M", "-N"))) as ssh:
        try:
            wait_for(control.exists, "the shared connection")
            data = place.data()
            at_once = [
                subprocess.Popen(place.ssh("cat", options=master), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                for _ in range(3)
            ]
            answers = [one.communicate(data, DEADLINE)[0] for one in at_once]
            assert answers == [data] * 3
        finally:
            ssh.terminate()


def abort(place: Place) -> None:
    """A session killed at a moment of chance, with output, input or nothing under way."""
    work = place.chance.choice(("cat /dev/zero", "cat >/dev/null", "sleep 1000", "sh -c 'sleep 1000 & sleep 1000'"))
    with open("/dev/zero", "rb") as zeros, subprocess.Popen(
        place.ssh(work), stdin=zeros, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as ssh:
        time.sleep(place.chance.random() * ABORT_AFTER)
        ssh.send_signal(place.chance.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)))


KINDS: dict[str, Callable[[Place], None]] = {
    one.__name__: one for one in (command, connect, terminal, copies, sftp, forward, shared, abort)
}
