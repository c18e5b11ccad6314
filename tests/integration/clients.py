"""What clients that read no ssh_config are given: the proxy command, the host key, a socket, a port."""

from __future__ import annotations

import asyncio
import select
import shlex
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from socket import socket as Socket

import asyncssh
import paramiko

from arv_ssh.net import upgrade
from arv_ssh.uuids import is_container
from tests.integration.conftest import Ssh
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.timing import DEADLINE

USER = "_"
"""The SSH user name that is the image's default user."""


@contextmanager
def transport_over(sock: socket.socket) -> Iterator[paramiko.Transport]:
    """Give a transport over ``sock``, and wait for its thread before the caller closes that.

    ``Transport.close`` does not wait: the thread would go on to read a descriptor that is another's by then, and did.
    """
    transport = paramiko.Transport(sock)
    try:
        yield transport
    finally:
        transport.close()
        transport.join(DEADLINE)
        assert not transport.is_alive()


class Way:
    """The way into one container, as the cluster's ssh_config describes it."""

    def __init__(self, ssh: Ssh, uuid: str) -> None:
        assert is_container(uuid)
        self.ssh = ssh
        self.uuid = uuid
        shown = subprocess.run(ssh.command("-G", uuid), capture_output=True, text=True, check=True).stdout
        options = dict(line.split(" ", 1) for line in shown.splitlines())
        self.proxy_line = options["proxycommand"].replace("%r", USER).replace("%h", uuid)
        self.known_hosts = Path(options["userknownhostsfile"].replace("%h", uuid))

    @property
    def proxy(self) -> list[str]:
        """The proxy command's words."""
        return shlex.split(self.proxy_line)

    def host_keys(self) -> list[str]:
        """Return ``ssh-ed25519 AAAA…`` and the others; the proxy writes them down each time that ssh connects."""
        assert self.ssh(self.uuid, "true").returncode == 0
        return [line.split(" ", 1)[1] for line in self.known_hosts.read_text().splitlines()]

    def host_key(self) -> str:
        """Return the Ed25519 key."""
        return self.host_keys()[0]

    def fingerprint(self) -> str:
        """Return the host key's fingerprint, ``SHA256:…``."""
        listed = ["ssh-keygen", "-lf", "-"]
        return subprocess.run(
            listed, input=self.host_key(), capture_output=True, text=True, check=True, timeout=DEADLINE
        ).stdout.split()[1]

    @contextmanager
    def socket(self) -> Iterator[socket.socket]:
        """Give a socket that carries SSH, through a proxy command of its own."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(self.proxy, stdin=theirs.fileno(), stdout=theirs.fileno())
        try:
            yield ours
        finally:
            ours.close()
            process.wait(DEADLINE)

    @contextmanager
    def by_paramiko(self) -> Iterator[paramiko.Transport]:
        """Connect with paramiko and log in with the method none."""
        with self.socket() as sock, transport_over(sock) as transport:
            transport.start_client(timeout=DEADLINE)
            transport.auth_none(USER)
            yield transport

    @asynccontextmanager
    async def by_asyncssh(self) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """Connect with asyncssh, which shares no code with the gateway's paramiko."""
        await asyncio.to_thread(self.host_key)
        # Not by its own proxy_command: that one's process is not waited for.
        with self.socket() as sock:
            async with asyncssh.connect(
                self.uuid, sock=sock, username=USER, known_hosts=str(self.known_hosts), config=None, client_keys=None,
                agent_path=None,
            ) as connection:  # fmt: skip
                yield connection

    @contextmanager
    def port(self) -> Iterator[int]:
        """Give a TCP port of 127.0.0.1 that speaks SSH: each connection gets a proxy command of its own."""
        processes: list[subprocess.Popen[bytes]] = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            accepting = threading.Thread(target=self._accept, args=(listener, processes))
            accepting.start()
            try:
                yield listener.getsockname()[1]
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                accepting.join(DEADLINE)
                for process in processes:
                    process.kill()
                    process.wait(DEADLINE)

    def _accept(self, listener: Socket, processes: list[subprocess.Popen[bytes]]) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # shut down: the block is over
            with connection:
                processes.append(subprocess.Popen(self.proxy, stdin=connection.fileno(), stdout=connection.fileno()))


@contextmanager
def with_credential(cluster: EmbeddedCluster, uuid: str) -> Iterator[tuple[socket.socket, str]]:
    """Open a session as a client of one's own would, over TLS; give its socket and its password."""
    lines = cluster.directory.env.read_text().replace("export ", "").split()
    settings = dict(line.split("=", 1) for line in lines)
    authority = settings["ARVADOS_API_HOST"]
    host, _, port = authority.partition(":")
    wish = upgrade.request(
        "POST",
        f"/arvados/v1/containers/{uuid}/ssh",
        authority,
        [("Authorization", f"Bearer {settings['ARVADOS_API_TOKEN']}")],
        {"login_username": "", "detach_keys": ""},
    )
    context = ssl.create_default_context(cafile=str(cluster.directory.ca))
    answer = upgrade.UpgradeAnswer()
    plain = socket.create_connection((host, int(port)), DEADLINE)
    with context.wrap_socket(plain, server_hostname=host) as tls:
        tls.sendall(wish)
        while not answer.receive(tls.recv(65536)):
            pass
        assert answer.status == 101, answer.body
        ours, theirs = socket.socketpair()
        relay = threading.Thread(target=_relay, args=(tls, theirs, answer.trailing))
        relay.start()
        try:
            yield ours, answer.headers["x-arvados-ssh-user-credential"]
        finally:
            ours.close()
            relay.join(DEADLINE)


def _relay(tls: ssl.SSLSocket, plain: socket.socket, first: bytes) -> None:
    """Pass bytes both ways until either side ends; one thread, for OpenSSL takes only one at a time."""
    with plain:
        plain.sendall(first)
        while True:
            ready = [tls] if tls.pending() else select.select([tls, plain], [], [])[0]
            for source, sink in ((tls, plain), (plain, tls)):
                if source in ready:
                    try:
                        data = source.recv(65536)
                        if not data:
                            return
                        sink.sendall(data)
                    except OSError:
                        return  # one side is gone
