"""``arv_ssh.forward()``: local ports that lead into a container, by sshtunnel.

Owns the listening sockets and every thread and connection behind them, until the block ends. sshtunnel does the
listening and the login; what it leaves to be desired stands in :class:`_Handler` and :class:`_Forwarder`.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import paramiko
import sshtunnel  # type: ignore[import-untyped]

from arv_ssh.client.connect import handshake_failure, host_keys
from arv_ssh.client.stream import CLOSE_TIMEOUT, SessionStream, open_stream
from arv_ssh.errors import ArvSshError, Unavailable, UsageError

logger = logging.getLogger(__name__)
_SSHTUNNELS = logger.getChild("sshtunnel")
_SSHTUNNELS.setLevel(logging.CRITICAL)
"""sshtunnel's own words: each of its failures is an exception of ours, or a line in ``logger``."""

LOCAL_HOST = "127.0.0.1"
"""Where forwarded ports listen: a port that leads into a container is for this machine's user only."""

Remote = int | str | tuple[str, int]
"""A port of the container, ``"HOST:PORT"`` as seen from inside it, or the two as a pair."""

_REMOTE = re.compile(r"(?:(?:\[([0-9A-Fa-f:.%]+)\]|([^\s\[\]:]+)):)?([0-9]{1,5})")
_SIZE = 64 * 1024
_CHECK_INTERVAL = 1.0
"""Seconds until a channel that the far end has closed is noticed while the local program says nothing."""


def parse_remote(remote: Remote) -> tuple[str, int]:
    """Return host and port of ``remote``; a port alone is the container's own localhost."""
    if isinstance(remote, tuple):
        remote = f"[{remote[0]}]:{remote[1]}" if ":" in remote[0] else f"{remote[0]}:{remote[1]}"
    found = _REMOTE.fullmatch(str(remote))
    if not found or not 0 < int(found.group(3)) < 65536:
        raise UsageError(f"{remote!r} is not a forwarding target; give a port of the container, or HOST:PORT")
    return found.group(1) or found.group(2) or "localhost", int(found.group(3))


@contextmanager
def forward(
    target: str, remote: Remote, local: int = 0, *, user: str = "", settings_file: str = ""
) -> Iterator[int]:
    """Listen on 127.0.0.1 for the length of a ``with`` block, and give the port, which leads to ``remote``.

    ``local`` is the port to listen on, 0 for any that is free. ``target``, ``user`` and ``settings_file`` as for
    :func:`arv_ssh.connect`, and so are the errors. After the block nothing listens, and no connection is left.
    """
    with LocalForwarding(target, [(local, parse_remote(remote))], user=user, settings_file=settings_file) as forwarding:
        yield forwarding.ports[0]


class LocalForwarding:
    """Several forwarded ports over one session: pairs of a local port, or 0, and a remote host and port.

    A context manager: it listens from the beginning of the block to its end. ``ports`` has the local ports, in order.
    """

    def __init__(
        self, target: str, pairs: Sequence[tuple[int, tuple[str, int]]], *, user: str = "", settings_file: str = ""
    ) -> None:
        self._target, self._user, self._settings_file = target, user, settings_file
        self._pairs = pairs
        self.ports: list[int] = []

    def __enter__(self) -> LocalForwarding:
        self._stream = open_stream(self._target, self._user, self._settings_file)
        try:
            self._forwarder = _Forwarder(self._stream, self._pairs)
            self.ports = self._forwarder.listen()
        except BaseException:
            self._stream.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._forwarder.close()
        self._stream.close()

    def wait(self) -> None:
        """Wait until the session ends by itself, and raise what ended it."""
        self._stream.ended.wait()
        raise self._stream.failure or Unavailable(
            f"the session in container {self._stream.container} was ended by the other side; check that it still runs"
        )


class _Connected(socket.socket):
    """A socket that is connected already; sshtunnel connects what it is given."""

    def connect(self, address: object) -> None:
        """Do nothing."""


class _Forwarder(sshtunnel.SSHTunnelForwarder):  # type: ignore[misc]
    """sshtunnel's forwarder, with sentences for its failures and an end after which no thread is left."""

    is_alive = False  # asked for at the end, also of one whose beginning failed
    daemon_forward_servers = False  # so that closing a server waits for its connections' threads

    def __init__(self, stream: SessionStream, pairs: Sequence[tuple[int, tuple[str, int]]]) -> None:
        self.stream = stream
        self.connections: set[socket.socket] = set()
        self._serving: list[threading.Thread] = []
        super().__init__(
            (stream.container, 22),
            ssh_config_file=None,
            ssh_username=stream.user,
            ssh_password=stream.user_credential,
            ssh_host_key=host_keys(stream)[0],
            ssh_proxy=_Connected(fileno=stream.socket.detach()),
            # Not the user's own keys: they are tried first, and say to the gateway who else the user is.
            allow_agent=False,
            host_pkey_directories=[],
            local_bind_addresses=[(LOCAL_HOST, local) for local, _ in pairs],
            remote_bind_addresses=[remote for _, remote in pairs],
            logger=_SSHTUNNELS,
        )

    def listen(self) -> list[int]:
        """Log in and listen; return the local ports. Nothing is left behind by a failure."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return [port for _, port in self.local_bind_addresses]

    def close(self) -> None:
        """Stop listening, cut what is connected, and wait for every thread."""
        for connection in list(self.connections):
            _shut(connection, socket.SHUT_RDWR)
        if self.is_alive:
            servers = list(self._server_list)
            self.stop(force=True)
        else:
            # sshtunnel's stop() would wait for loops that never began.
            servers = self._server_list
        for server in servers:
            server.server_close()
        for thread in self._serving:
            thread.join(CLOSE_TIMEOUT)
        self.ssh_proxy.close()
        if "_transport" in self.__dict__:
            self._transport.close()
            self._transport.join(CLOSE_TIMEOUT)

    def _connect_to_gateway(self) -> None:
        try:
            super()._connect_to_gateway()
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise handshake_failure(self.stream, error) from error
        if not self._transport.is_authenticated():
            raise handshake_failure(self.stream, paramiko.AuthenticationException("the login was refused"))

    def _make_ssh_forward_server(self, remote: tuple[str, int], local: tuple[str, int]) -> None:
        try:
            super()._make_ssh_forward_server(remote, local)
        except sshtunnel.BaseSSHTunnelForwarderError as error:
            reason = getattr(error.__context__, "strerror", None) or error
            raise ArvSshError(f"cannot listen on {local[0]}:{local[1]}: {reason}; give another port, or 0") from error

    def _make_ssh_forward_handler_class(self, remote: tuple[str, int]) -> type[Any]:
        return type("Handler", (_Handler,), {
            "forwarder": self, "remote_address": remote, "ssh_transport": self._transport, "logger": self.logger,
        })  # fmt: skip

    def _serve_forever_wrapper(self, server: Any, poll_interval: float = 0.1) -> None:
        self._serving.append(threading.current_thread())
        super()._serve_forever_wrapper(server, poll_interval)


class _Handler(sshtunnel._ForwardHandler):  # type: ignore[misc]
    """One forwarded connection. sshtunnel's own relay ends both directions at the first end of either."""

    forwarder: _Forwarder
    request: socket.socket

    def handle(self) -> None:
        """Relay one connection; log one sentence when the far end of it cannot be reached."""
        try:
            super().handle()
        except sshtunnel.HandlerSSHTunnelForwarderError as error:
            cause = error.__context__
            reason = cause.text if isinstance(cause, paramiko.ChannelException) else cause or error
            place = "{}:{}".format(*self.remote_address)
            logger.error("%s cannot be reached from %s: %s", place, self.forwarder.stream.container, reason)

    def _redirect(self, channel: paramiko.Channel) -> None:
        self.forwarder.connections.add(self.request)
        up = threading.Thread(target=self._send, args=(channel,), name="forward up", daemon=True)
        up.start()
        try:
            while data := channel.recv(_SIZE):
                self.request.sendall(data)
            _shut(self.request, socket.SHUT_WR)
            while up.is_alive() and not channel.closed:
                up.join(_CHECK_INTERVAL)
        finally:
            _shut(self.request, socket.SHUT_RDWR)
            _close(channel)
            up.join()
            self.forwarder.connections.discard(self.request)

    def _send(self, channel: paramiko.Channel) -> None:
        """Relay what the local program says, until it ends that or the channel is closed."""
        try:
            while data := self.request.recv(_SIZE):
                channel.sendall(data)
            channel.shutdown_write()
        except (OSError, EOFError):  # paramiko's EOFError: the SSH connection has ended
            _close(channel)  # wakes the other direction, which ends the connection


def _close(channel: paramiko.Channel) -> None:
    try:
        channel.close()
    except EOFError:
        pass  # the SSH connection was first


def _shut(connection: socket.socket, how: int) -> None:
    try:
        connection.shutdown(how)
    except OSError:
        pass  # the local program was first
