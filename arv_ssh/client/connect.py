"""``arv_ssh.connect()``: a paramiko client that is in a container, with the host key checked.

Owns the login. How the bytes get there is :mod:`arv_ssh.client.stream`'s.
"""

from __future__ import annotations

import logging

import paramiko

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
        key = host_key(stream)
        self.get_host_keys().add(stream.container, key.get_name(), key)

    @property
    def container(self) -> str:
        """The UUID of the container."""
        return self._stream.container

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


def host_key(stream: SessionStream) -> paramiko.PKey:
    """Return the key that the controller vouches for; raise :class:`BadGateway` when it is none."""
    entry = paramiko.hostkeys.HostKeyEntry.from_line(f"{stream.container} {stream.host_key}")
    if entry is None or entry.key is None:
        raise BadGateway(f"the controller sent a malformed host key for {stream.container}; report this")
    return entry.key


def handshake_failure(stream: SessionStream, error: Exception) -> BadGateway:
    """Return the sentence for a handshake that ended with ``error``; the stream knows better when it failed itself."""
    reason = stream.failure or error
    return BadGateway(f"the SSH handshake with container {stream.container} failed: {reason}; try again")
