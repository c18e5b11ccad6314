"""An accepted session as a plain socket, for SSH libraries that live in the same process.

Owns one thread, which alone uses the TLS connection: OpenSSL must not be read and written by two threads at once, and
an SSH library does just that. Knows nothing of SSH itself.
"""

from __future__ import annotations

import os
import socket
import threading

from arv_ssh.client.controller import DEFAULT_LOGIN, AcceptedUpgrade, Controller, unvouched
from arv_ssh.client.redial import Redial
from arv_ssh.client.relay import PollRelay
from arv_ssh.client.resuming import ResumingRelay
from arv_ssh.client.settings import load
from arv_ssh.client.targets import resolve
from arv_ssh.errors import ArvSshError
from arv_ssh.resume.negotiation import read_grant

CLOSE_TIMEOUT = 10.0
"""Seconds to wait for a thread at the end; it takes milliseconds, and a hang at exit would be worse than a thread."""


class SessionStream:
    """The bytes of one session in ``container``, at ``socket``; the library that gets it may close it.

    ``host_keys`` are the gateway's, as ``ssh-ed25519 AAAA…``, and ``user_credential`` the password for ``user``.
    ``ended`` is set when no more bytes will come; ``failure`` then says why, unless the end was in order.
    """

    def __init__(
        self, container: str, user: str, session: AcceptedUpgrade, controller: Controller | None = None
    ) -> None:
        if not session.host_keys or session.user_credential is None:
            session.connection.close()
            raise ArvSshError(unvouched(container))
        self.container, self.user = container, user
        self.host_keys, self.user_credential = session.host_keys, session.user_credential
        self.socket, self._inner = socket.socketpair()
        self.ended = threading.Event()
        self.failure: ArvSshError | None = None
        self._thread = threading.Thread(
            target=self._relay, args=(session, controller), name=f"arv-ssh {container}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End the session and wait for its thread; closing twice does nothing more."""
        self.socket.close()
        self._thread.join(CLOSE_TIMEOUT)

    def _relay(self, session: AcceptedUpgrade, controller: Controller | None) -> None:
        # Two descriptors, for the relay polls each direction by its own.
        stdin, stdout = self._inner.fileno(), os.dup(self._inner.fileno())
        relay = self._made(session, controller, stdin, stdout)
        try:
            relay.run()
        except ArvSshError as error:
            self.failure = error
        finally:
            os.close(stdout)
            self._inner.close()
            relay.close()
            self.ended.set()

    def _made(
        self, session: AcceptedUpgrade, controller: Controller | None, stdin: int, stdout: int
    ) -> PollRelay:
        grant = read_grant(session.resume)
        if grant is None or controller is None:
            return PollRelay(session.connection, stdin, stdout, session.first)
        controller.watch = stdout
        return ResumingRelay(session, stdin, stdout, None, Redial(controller, self.container, self.user, grant))


def open_stream(target: str, user: str = "", settings_file: str = "") -> SessionStream:
    """Open a session in the container that ``target`` leads to: its UUID, its container request's, or NAME.arv.

    ``user`` is a login name of the container, "" the image's own. ``settings_file`` as with ``--settings``. Raise
    :class:`ArvSshError` with a sentence for the user, whatever is in the way.
    """
    controller = Controller(load(settings_file, target=target), resumable=True)
    container = resolve(controller, target)
    login = user or DEFAULT_LOGIN
    return SessionStream(container, login, controller.open_session(container, login, ""), controller)
