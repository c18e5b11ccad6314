"""One SSH connection to the gateway: its transport, the login, and the channels that are open.

Owns who is let in: exactly the session that the controller proved. Knows nothing of how the bytes got here.
"""

from __future__ import annotations

import io
import logging
import shlex
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL
from paramiko.message import Message

from arv_ssh.config.session_options import SessionOptions
from arv_ssh.errors import Unavailable
from arv_ssh.log import event
from arv_ssh.resume.negotiation import SHOWN_AFTER, Grant
from arv_ssh.trust import credentials
from arv_ssh.trust.host_key import ECDSA, ED25519, private_pem
from crunch_sshd.audit.channel_audit import ConnectionAudit
from crunch_sshd.forwarding.forward import Forwarding
from crunch_sshd.forwarding.policy import DEFAULT_POLICY, Policy
from crunch_sshd.gateway import algorithms
from crunch_sshd.gateway.algorithms import Algorithms
from crunch_sshd.gateway.memory_limit import NO_LIMIT, MemoryLimit
from crunch_sshd.runtimes import Account, Runtime
from crunch_sshd.session import connection_variables
from crunch_sshd.session.session import SessionChannel
from crunch_sshd.session.watch import SessionWatch
from crunch_sshd.ssh.buffered_socket import BufferedSocket
from crunch_sshd.ssh.limits import KIND_LENGTH
from crunch_sshd.ssh.transport import (
    OPEN_PROHIBITED,
    OPEN_RESOURCE_SHORTAGE,
    OPEN_UNKNOWN_TYPE,
    ChannelOpen,
    GatewayChannel,
    GatewayServer,
    GatewayTransport,
)

logger = logging.getLogger(__name__)

SHOW_TIME = 0.25
"""Seconds for a client to show text sent to a session's stderr: ssh exits when it reads SSH_MSG_DISCONNECT, and may
then leave unwritten the text that came just before."""
DISCONNECT_GRACE = 2.0
"""Seconds for a client to read the reason why its connection ends."""

DEFAULT_USER = "_"
"""The SSH user name that stands for the image's default user."""
ENV_HINT = "a site sets which ones are, in Containers.ShellAccess.Sessions.AcceptEnv"

SHOWN = 100
"""Characters of a user name in a sentence."""

IDENTIFICATION = "SSH-2.0-OpenSSH_9.9 arv-ssh"
"""Clients decide by it (docs/ssh-reference.md): what OpenSSH's sshd does is what the gateway does."""


@dataclass(frozen=True)
class Login:
    """The user whom the controller proved: login name ("" is the default user), its account, the session's password.

    ``user_credential`` and ``user_uuid`` are "" where the session was not signed: then no password is right. ``client``
    is the user's address as the controller reports it, ``gateway`` the gateway's own as it is on the record. With
    ``any_username`` the user name within SSH does not count: a stock client sends there who its user is at home.
    ``requested`` is the login name as it was signed, ``grant`` what a session is granted that can be resumed.
    """

    login_username: str
    account: Account
    user_credential: str
    detach_keys: bytes
    request_id: str
    user_uuid: str = ""
    client: str = ""
    gateway: str = ""
    any_username: bool = False
    requested: str = ""
    grant: Grant | None = None


class Connection(GatewayServer):
    """The server side of one SSH connection, in a thread of its own until the client goes away."""

    def __init__(
        self,
        sock: socket.socket | BufferedSocket,
        secret: str,
        login: Login,
        runtime: Runtime,
        ended: Callable[[Connection], None],
        policy: Policy = DEFAULT_POLICY,
        options: SessionOptions | None = None,
        container_ended: Callable[[], bool] = lambda: False,
        audit: ConnectionAudit | None = None,
        memory: MemoryLimit = NO_LIMIT,
    ) -> None:
        self._audit = audit or ConnectionAudit()
        self._options = options or SessionOptions()
        self._container_ended = container_ended
        self.login = self._login = login
        self._runtime = runtime
        self._ended = ended
        self._lock = threading.Lock()
        self._sessions: set[SessionChannel] = set()
        self._no_more_sessions = False
        self._told_of_env = False
        self._transport = _transport(sock, secret, algorithms.offered(self._options.algorithms))
        self._memory = memory
        self._forwarding = Forwarding(
            self._transport, runtime.host(), login.account, policy, self._audit, memory.check_forward
        )
        self._openers: dict[str, Callable[[ChannelOpen], None]] = {
            "session": self._open_session,
            **self._forwarding.openers,
        }

    def start(self) -> None:
        """Begin the SSH handshake; returns at once."""
        self._transport.start_server(event=threading.Event(), server=self)

    def end(self, reason: str) -> None:
        """Tell the client why, and end the connection and everything its sessions run; returns at once.

        The reason also goes to the stderr of each session: where several share a connection (ControlMaster), or with
        clients other than ssh, users do not see a reason sent to the connection itself. A client that does not read is
        not waited for longer than :data:`DISCONNECT_GRACE`.
        """
        self._audit.reason = reason
        with self._lock:
            sessions = list(self._sessions)
        threading.Thread(target=self._disconnect, args=(reason, sessions), name="disconnect", daemon=True).start()

    def _disconnect(self, reason: str, sessions: list[SessionChannel]) -> None:
        timer = threading.Timer(DISCONNECT_GRACE, self.close)
        timer.daemon = True
        timer.start()
        for session in sessions:
            session.tell(reason)
        if sessions:
            time.sleep(SHOW_TIME)
        self._transport.disconnect(reason)
        timer.cancel()

    @property
    def reason(self) -> str:
        """Why the gateway has ended the connection, "" if it has not."""
        return self._audit.reason

    @property
    def facts(self) -> dict[str, Any]:
        """What log and audit say of the connection."""
        return self._audit.facts

    def resumed(self, seconds: float) -> None:
        """Note that the connection goes on after ``seconds`` without one below it.

        ssh-proxy may have left a line on the user's screen, so full-screen programs are told to draw theirs anew.
        """
        if seconds < SHOWN_AFTER:
            return
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.redraw()

    def close(self) -> None:
        """End the connection and everything its sessions run."""
        self._transport.close()

    @property
    def authenticated(self) -> bool:
        """Say whether the client has logged in."""
        return self._transport.is_authenticated()

    def client_identified(self, version: str) -> None:
        _offer(self._transport, algorithms.offered(self._options.algorithms, version))

    def transport_ended(self) -> None:
        if failure := self._transport.failure:
            self._audit.reason = self._audit.reason or failure
            event(logger, "the ssh connection broke", level=logging.WARNING, request_id=self._login.request_id,
                  error=failure)  # fmt: skip
        self._forwarding.close()
        self._ended(self)

    # Login (RFC 4252). The transport thread calls these.

    def get_allowed_auths(self, username: str) -> str:
        # No password makes another user of this session's: ssh should not ask for one.
        return "none,password" if self._is_sessions(username) else "none"

    def check_auth_none(self, username: str) -> int:
        return self._answer(username, True)

    def check_auth_password(self, username: str, password: str) -> int:
        expected = self._login.user_credential
        known = bool(expected) and isinstance(password, str) and credentials.matches(password, expected)
        return self._answer(username, known)

    def _answer(self, username: str, known: bool) -> int:
        if known and self._is_sessions(username):
            return AUTH_SUCCESSFUL
        self._audit.refuse(f"the login as {username!r} failed")
        if not self._is_sessions(username):
            self._transport.send_banner(
                f"arv-ssh: the ProxyCommand asked for the user {self._ssh_username!r}, but ssh logs in as "
                f"{username[:SHOWN]!r}; name the same one to both, e.g. ssh -l {shlex.quote(self._ssh_username)}\n"
            )
        return AUTH_FAILED

    def _is_sessions(self, username: str) -> bool:
        return self._login.any_username or username == self._ssh_username

    @property
    def _ssh_username(self) -> str:
        return self._login.login_username or DEFAULT_USER

    # Channels (RFC 4254 §5.1).

    def open_channel(self, opening: ChannelOpen) -> None:
        opener = self._openers.get(opening.kind)
        if opener is None:
            self._refuse(opening, OPEN_UNKNOWN_TYPE, f"the channel type {opening.kind} is not supported")
        else:
            opener(opening)

    def _open_session(self, opening: ChannelOpen) -> None:
        if self._no_more_sessions:
            self._refuse(opening, OPEN_PROHIBITED, "the client itself asked for no more sessions")
        elif len(self._sessions) >= self._options.max_sessions:
            limit = self._options.max_sessions
            self._refuse(opening, OPEN_RESOURCE_SHORTAGE, f"this connection has {limit} sessions open, its limit")
        else:
            try:
                self._memory.check_session()
            except Unavailable as error:
                self._refuse(opening, OPEN_RESOURCE_SHORTAGE, str(error))
                return
            opening.accept(self._new_session)

    def _refuse(self, opening: ChannelOpen, reason: int, sentence: str) -> None:
        self._audit.channel(opening.kind).refuse(sentence)
        opening.refuse(reason, sentence)

    def _new_session(self, channel: GatewayChannel) -> SessionChannel:
        session = SessionChannel(
            channel,
            self._login.account,
            self._runtime,
            self._session_over,
            self._options,
            self._login.detach_keys,
            self._forwarding.agent,
            self._container_ended,
            SessionWatch(self._audit.channel("session"), self._audit.recordings),
            connection_variables.variables(self._login.client, self._login.gateway),
            self._env_refused,
        )
        with self._lock:
            self._sessions.add(session)
        return session

    def _env_refused(self, name: str) -> None:
        """Tell a client that shows debug messages (``ssh -v``) about the first variable that was not set."""
        if not self._told_of_env:
            self._told_of_env = True
            shown = "".join(char if " " < char <= "~" else "?" for char in name[:KIND_LENGTH])
            self._transport.debug(f"the variable {shown} was not accepted; {ENV_HINT}")

    def _session_over(self, session: SessionChannel) -> None:
        with self._lock:
            self._sessions.discard(session)

    def global_request(self, kind: str, message: Message, reply: Callable[[bool, tuple[int, ...]], None]) -> None:
        if self._forwarding.global_request(kind, message, reply):
            return
        if kind == "no-more-sessions@openssh.com":
            self._no_more_sessions = True
        # keepalive@openssh.com wants an answer, and a failure will do (sshd also answers with one).
        reply(False, ())


_READERS: dict[str, type[paramiko.Ed25519Key] | type[paramiko.ECDSAKey]] = {
    ED25519: paramiko.Ed25519Key,
    ECDSA: paramiko.ECDSAKey,
}


@lru_cache(maxsize=len(_READERS))  # a gateway has one secret, and reading both keys takes half a millisecond
def _host_key(secret: str, kind: str) -> paramiko.PKey:
    return _READERS[kind](file_obj=io.StringIO(private_pem(secret, kind)))


def _transport(sock: socket.socket | BufferedSocket, secret: str, offer: Algorithms) -> GatewayTransport:
    transport = GatewayTransport(sock)
    transport.local_version = IDENTIFICATION
    for kind in offer.host_keys:
        transport.add_server_key(_host_key(secret, kind))
    _offer(transport, offer)
    return transport


def _offer(transport: GatewayTransport, offer: Algorithms) -> None:
    options = transport.get_security_options()
    options.kex = [name for name in offer.kex if name in transport._kex_info]  # an older cryptography has no ML-KEM
    options.key_types = offer.host_keys
    options.ciphers = offer.ciphers
    options.digests = offer.macs
