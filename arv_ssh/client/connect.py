"""``arv_ssh.connect()``: a paramiko client that is in a container, with the host key checked.

Owns the login. How the bytes get there is :mod:`arv_ssh.client.stream`'s.
"""

from __future__ import annotations

import logging

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm

from arv_ssh.client.stream import CLOSE_TIMEOUT, SessionStream, open_stream
from arv_ssh.errors import BadGateway


class ContainerClient(paramiko.SSHClient):
    """A ``paramiko.SSHClient`` that is connected to one container; its ``connect`` is not for callers.

    A context manager as its base class. :meth:`close` leaves neither thread nor socket behind.
    """

    def __init__(self, stream: SessionStream) -> None:
        super().__init__()
        self._stream = stream
        self.set_missing_host_key_policy(paramiko.RejectPolicy())
        for key in host_keys(stream):
            self.get_host_keys().add(stream.container, key.get_name(), key)

    @property
    def container(self) -> str:
        """The UUID of the container."""
        return self._stream.container

    @property
    def host_key_kind(self) -> str:
        """The kind of host key by which the gateway has proven itself, such as ``ssh-ed25519``."""
        transport = self.get_transport()
        return transport.get_remote_server_key().get_name() if transport else ""

    def close(self) -> None:
        """End the session and wait for its threads."""
        transport = self.get_transport()
        super().close()
        self._stream.close()
        if transport:
            transport.join(CLOSE_TIMEOUT)

    def log_in(self) -> None:
        """Run the SSH handshake; raise :class:`BadGateway` when it fails."""
        stream = self._stream
        try:
            self.connect(
                stream.container,
                username=stream.user,
                password=stream.user_credential,
                sock=stream.socket,
                allow_agent=False,
                look_for_keys=False,
            )
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise handshake_failure(stream, error) from error


def connect(target: str, *, user: str = "", settings_file: str = "") -> ContainerClient:
    """Return a client that is logged in to the container of ``target``: its UUID, its request's, or NAME.arv.

    ``user`` is a login name of the container, "" the image's own user. Settings come from the environment and
    ``~/.config/arvados`` as for ``arvados-client``, or from ``settings_file``. Use it in a ``with`` block, or close it.
    Raise :class:`arv_ssh.errors.ArvSshError` with a sentence for the user.
    """
    stream = open_stream(target, user, settings_file)
    try:
        client = ContainerClient(stream)
    except BaseException:
        stream.close()
        raise
    try:
        client.log_in()
    except BaseException:
        client.close()
        raise
    return client


def silence_paramiko() -> None:
    """Keep paramiko's own log, tracebacks among it, off the stderr of a program that has its own words for failures."""
    own = logging.getLogger("paramiko")
    own.addHandler(logging.NullHandler())
    own.propagate = False


def host_keys(stream: SessionStream) -> list[paramiko.PKey]:
    """Return the keys that the controller vouches for, without those of a kind that this machine may not use.

    Raise :class:`BadGateway` when none is left, or when one is malformed.
    """
    found = [key for line in stream.host_keys if (key := _host_key(stream.container, line))]
    if not found:
        kinds = ", ".join(line.split(" ")[0] for line in stream.host_keys)
        raise BadGateway(
            f"the host keys of {stream.container} are of kinds that this machine may not use: {kinds}; "
            "ask the cluster's administrator for Sessions: {Algorithms: compatible}"
        )
    return found


def _host_key(container: str, line: str) -> paramiko.PKey | None:
    try:
        entry = paramiko.hostkeys.HostKeyEntry.from_line(f"{container} {line}")
    except UnsupportedAlgorithm:  # Ed25519 under FIPS 140
        return None
    if entry is None or entry.key is None:
        raise BadGateway(f"the controller sent a malformed host key for {container}; report this")
    return entry.key


def handshake_failure(stream: SessionStream, error: Exception) -> BadGateway:
    """Return the sentence for a handshake that ended with ``error``; the stream knows better when it failed itself."""
    reason = stream.failure or error
    return BadGateway(f"the SSH handshake with container {stream.container} failed: {reason}; try again")
