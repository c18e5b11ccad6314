"""An SSH client that sends what it likes: paramiko's, over ssh-proxy, with doors for raw messages.

Owns the connection and the measuring of what the gateway grew by. Knows no attack.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paramiko
from paramiko import common
from paramiko.message import Message

from tests.integration.embedded_cluster import EmbeddedCluster
from tests.timing import DEADLINE

FAST, SLOW = "aes128-gcm@openssh.com", "aes128-ctr"
"""A cipher whose packets the gateway reads itself, as stock ssh chooses it, and one whose packets paramiko reads."""
WINDOW = 2 << 20
"""Bytes that a channel of the gateway lets a client send ahead."""


@contextmanager
def proxied(cluster: EmbeddedCluster, uuid: str) -> Iterator[socket.socket]:
    """Yield a socket whose far end is the gateway of a container, by way of ssh-proxy as the user's ssh starts it."""
    said = subprocess.run(
        ["ssh", "-F", str(cluster.directory.ssh_config), "-G", uuid], capture_output=True, text=True, check=True
    ).stdout
    command = next(line.partition(" ")[2] for line in said.splitlines() if line.startswith("proxycommand "))
    command = command.replace("%h", uuid).replace("%p", "22").replace("%r", "_").replace("%%", "%")
    near, far = socket.socketpair()
    with near:
        with far:
            proxy = subprocess.Popen(f"exec {command}", shell=True, stdin=far.fileno(), stdout=far.fileno())
        try:
            yield near
        finally:
            proxy.kill()
            proxy.wait(DEADLINE)


class HostileClient:
    """One connection, logged in as the image's default user, with a paramiko window as large as the gateway's."""

    def __init__(self, sock: socket.socket, cipher: str) -> None:
        self.transport: Any = paramiko.Transport(sock, default_window_size=WINDOW)
        self.transport.get_security_options().ciphers = (cipher,)
        self.transport.start_client(timeout=DEADLINE)
        self.transport.auth_none("_")
        self._deaf = threading.Event()
        self._hearing = threading.Event()

    def message(self, kind: bytes, *fields: Any) -> Message:
        """Return a message: bytes and strings have their length before them, integers four bytes, Raw nothing."""
        message = Message()
        message.add_byte(kind)
        for field in fields:
            if isinstance(field, bool):
                message.add_boolean(field)
            elif isinstance(field, int):
                message.add_int(field)
            elif isinstance(field, Raw):
                message.add_bytes(field.content)
            else:
                message.add_string(field)
        return message

    def send(self, kind: bytes, *fields: Any) -> None:
        """Send a message; EOFError, OSError or SSHException when the gateway has ended the connection."""
        self.send_again(self.message(kind, *fields))

    def send_again(self, message: Message) -> None:
        """Send a message that is made already."""
        if not self.transport.is_active():
            raise EOFError
        self.transport._send_user_message(message)

    def open(self, command: str | None = None) -> paramiko.Channel:
        """Open a session, and start ``command`` in it if there is one."""
        channel: paramiko.Channel = self.transport.open_session(timeout=DEADLINE)
        channel.settimeout(DEADLINE)
        if command is not None:
            channel.exec_command(command)
        return channel

    def ping(self) -> None:
        """Return once the gateway has read everything that was sent, if the connection is still there."""
        self.transport.global_request("keepalive@openssh.com")

    def stop_reading(self) -> None:
        """Take nothing any more: what the gateway answers fills the connection."""
        packetizer = self.transport.packetizer
        real = packetizer.read_message

        def wait() -> Any:
            self._hearing.wait()
            return real()

        packetizer.read_message = wait

    def close(self) -> None:
        self._hearing.set()
        self.transport.close()


class Raw:
    """Bytes of a message that have no length before them."""

    def __init__(self, content: bytes) -> None:
        self.content = content


@contextmanager
def connected(cluster: EmbeddedCluster, uuid: str, cipher: str = FAST) -> Iterator[HostileClient]:
    """Yield a client of its own connection."""
    with proxied(cluster, uuid) as sock:
        client = HostileClient(sock, cipher)
        try:
            yield client
        finally:
            client.close()


class Growth:
    """What a process grows by from now on: its highest resident size (proc(5), clear_refs), against the present one."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._before = self._field("VmRSS")
        Path(f"/proc/{pid}/clear_refs").write_text("5")

    def bytes(self) -> int:
        """Return the most that it had more than at the beginning."""
        return self._field("VmHWM") - self._before

    def _field(self, name: str) -> int:
        for line in self._status.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise ProcessLookupError("the gateway has ended")


GLOBAL_REQUEST = common.cMSG_GLOBAL_REQUEST
CHANNEL_OPEN = common.cMSG_CHANNEL_OPEN
CHANNEL_REQUEST = common.cMSG_CHANNEL_REQUEST
CHANNEL_DATA = common.cMSG_CHANNEL_DATA
IGNORE = common.cMSG_IGNORE
DEBUG = common.cMSG_DEBUG
