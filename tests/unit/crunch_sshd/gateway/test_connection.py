"""Who is let in over SSH: exactly the session that the controller proved."""

from __future__ import annotations

import logging
import socket
import struct
import threading
from dataclasses import replace

import paramiko
import pytest

from arv_ssh.config.session_options import SessionOptions
from arv_ssh.trust import host_key
from crunch_sshd.audit.channel_audit import ConnectionAudit
from crunch_sshd.gateway import algorithms
from crunch_sshd.gateway import connection as connection_module
from crunch_sshd.gateway.algorithms import COMPATIBLE, MODERN, PLAIN_MACS
from crunch_sshd.gateway.connection import Connection
from crunch_sshd.ssh.transport import GatewayTransport
from tests.unit.crunch_sshd.conftest import Connect
from tests.unit.crunch_sshd.double import CREDENTIAL, DEADLINE, SECRET, Link, MemoryRuntime, login


@pytest.mark.parametrize(("proven", "given"), [("", "_"), ("crunch", "crunch"), ("root", "root")])
def test_none(connect: Connect, proven: str, given: str) -> None:
    """The method none is accepted for the session's own user; ``_`` stands for the image's default user."""
    link = connect(proven)
    link.client.auth_none(given)
    assert link.client.is_authenticated() and link.server.authenticated


@pytest.mark.parametrize(
    ("proven", "given"),
    [("", ""), ("", "root"), ("", "crunch"), ("crunch", "_"), ("crunch", "root"), ("crunch", ""), ("root", "crunch")],
)
@pytest.mark.parametrize("method", ["none", "password"])
def test_other_user(connect: Connect, proven: str, given: str, method: str) -> None:
    """Another user than the session's is refused, whatever the method and even with the right password."""
    link = connect(proven)
    with pytest.raises(paramiko.AuthenticationException):
        if method == "none":
            link.client.auth_none(given)
        else:
            link.client.auth_password(given, CREDENTIAL)
    assert not link.server.authenticated


@pytest.mark.parametrize(("proven", "typed"), [("", "_"), ("crunch", "crunch"), ("4711:4711", "4711:4711")])
def test_other_user_is_told(connect: Connect, proven: str, typed: str) -> None:
    """Another user is told in one line which name to give ssh, and that no password will help."""
    link = connect(proven)
    with pytest.raises(paramiko.BadAuthenticationType) as caught:
        link.client.auth_password("alice\x1b[2J" + "x" * 1000, "anything")
    assert caught.value.allowed_types == ["none"]
    banner = (link.client.get_banner() or b"").decode()
    assert f"asked for the user {typed!r}, but ssh logs in as 'alice\\x1b[2Jxx" in banner
    assert banner.endswith(f"ssh -l {typed}\n") and len(banner) < 300 and banner[:-1].isprintable()


@pytest.mark.parametrize("given", ["alice", "root", "", "_"])
def test_any_username(given: str, runtime: MemoryRuntime) -> None:
    """Where the user name within SSH does not count, the session is still that of the user who was proven."""
    link = Link(runtime, replace(login("crunch"), any_username=True))
    try:
        link.client.auth_none(given)
        assert link.server.authenticated and link.server.login.login_username == "crunch"
    finally:
        link.close()


def test_password(connect: Connect) -> None:
    """The session's credential is accepted as a password."""
    link = connect("crunch")
    link.client.auth_password("crunch", CREDENTIAL)
    assert link.client.is_authenticated()


@pytest.mark.parametrize("wrong", ["", "wrong", CREDENTIAL + "x", CREDENTIAL[:-1], "ü"])
def test_wrong_password(connect: Connect, wrong: str) -> None:
    """Any other password is refused, the empty one included."""
    link = connect("crunch")
    with pytest.raises(paramiko.AuthenticationException):
        link.client.auth_password("crunch", wrong)


@pytest.mark.parametrize("given", ["", "anything"])
def test_unsigned_session_has_no_password(connect: Connect, given: str) -> None:
    """Where no session was signed there is no credential, and so no right password: not the empty one either."""
    link = connect("crunch", credential="")
    with pytest.raises(paramiko.AuthenticationException):
        link.client.auth_password("crunch", given)
    link.client.auth_none("crunch")


def packet(payload: bytes) -> bytes:
    """Return an SSH packet before encryption (RFC 4253 §6)."""
    padding = 8 - (len(payload) + 5) % 8 + 8
    return struct.pack(">IB", len(payload) + padding + 1, padding) + payload + bytes(padding)


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        (b"SSH-1.5-x\r\n", "Incompatible version"),
        (b"SSH-2.0-x\r\n" + packet(b"\x14" + bytes(16 + 45)), "no acceptable"),
        (b"SSH-2.0-x\r\n" + packet(b"\x14"), ""),
        (b"SSH-2.0-x\r\n" + packet(b"\x14" + bytes(16) + b"\0\0\0\1\xff" * 10 + bytes(5)), "UnicodeDecodeError"),
        (b"SSH-2.0-x\r\n" + packet(b"\xfa"), "Expecting packet"),
        (b"SSH-2.0-x\r\n" + bytes(100), ""),
    ],
)
def test_a_broken_key_exchange(
    runtime: MemoryRuntime, caplog: pytest.LogCaptureFixture, sent: bytes, sentence: str
) -> None:
    """A proven client that breaks the key exchange on purpose makes one line in the log, and no traceback."""
    ended = threading.Event()
    near, far = socket.socketpair()
    audit = ConnectionAudit()
    with near:
        connection = Connection(far, SECRET, login("crunch"), runtime, lambda _: ended.set(), audit=audit)
        connection.start()
        near.sendall(sent)
        assert ended.wait(DEADLINE)
    connection._transport.join(DEADLINE)
    ours = [record for record in caplog.records if not record.name.startswith("paramiko")]
    lines = [record for record in ours if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in lines] == ["the ssh connection broke"]
    assert "Traceback" not in caplog.text
    said = vars(lines[0])["fields"]["error"]
    assert sentence in said and said.isprintable() and said.isascii() and audit.reason == said


def test_offered_methods(connect: Connect) -> None:
    """The methods offered are the two there are."""
    link = connect("crunch")
    with pytest.raises(paramiko.BadAuthenticationType) as caught:
        link.client.auth_publickey("crunch", paramiko.RSAKey.generate(2048))
    assert sorted(caught.value.allowed_types) == ["none", "password"]


def test_nothing_before_the_login(connect: Connect) -> None:
    """No channel is opened for who has not logged in."""
    link = connect()
    with pytest.raises(paramiko.SSHException):
        link.client.open_session(timeout=DEADLINE)


def test_host_key(link: Link) -> None:
    """The host key is the one that derives from the container's secret."""
    key = link.client.get_remote_server_key()
    assert f"{key.get_name()} {key.get_base64()}" == host_key.public_line(SECRET)


def test_ecdsa_host_key(connect: Connect) -> None:
    """A client that may not use Ed25519 is shown the ECDSA key that derives from the container's secret."""
    key = connect(wanted={"key_types": (host_key.ECDSA,)}).client.get_remote_server_key()
    assert f"{key.get_name()} {key.get_base64()}" == host_key.public_line(SECRET, host_key.ECDSA)


@pytest.mark.parametrize("choice", ["modern", "compatible"])
def test_algorithms(connect: Connect, choice: str) -> None:
    """What is offered is what the lists say: nothing slips in with a new paramiko, and nothing is missing."""
    link = connect(options=SessionOptions(algorithms=choice))
    options, offer = link.transport.get_security_options(), algorithms.offered(choice, link.client.local_version)
    assert (options.kex, options.key_types) == (offer.kex, offer.host_keys)
    assert (options.ciphers, options.digests) == (offer.ciphers, offer.macs)


@pytest.mark.parametrize("name", COMPATIBLE.kex)
def test_each_key_exchange(connect: Connect, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that wants just this exchange logs in, and changes keys by it later."""
    monkeypatch.setattr(paramiko.Transport, "_kex_info", GatewayTransport._kex_info)
    link = connect(wanted={"kex": (name,)})
    link.client.auth_none("_")
    link.client.renegotiate_keys()
    assert link.client.is_active() and link.client.global_request("keepalive@openssh.com") is None


@pytest.mark.parametrize(
    "wanted",
    [{"kex": ("ecdh-sha2-nistp256",)}, {"kex": ("diffie-hellman-group16-sha512",)}, {"key_types": (host_key.ECDSA,)}],
)
def test_modern_has_nothing_else(runtime: MemoryRuntime, wanted: dict[str, tuple[str, ...]]) -> None:
    """With Algorithms: modern, a client that cannot do what is modern is not let in."""
    with pytest.raises((paramiko.SSHException, EOFError)):
        Link(runtime, login(), options=SessionOptions(algorithms="modern"), wanted=wanted)


def test_a_plain_mac_is_for_some_clients(link: Link) -> None:
    """A client that says it is dropbear is offered the MAC it has; what others are offered is as before."""
    assert "hmac-sha2-256" not in link.transport.get_security_options().digests
    link.server.client_identified("SSH-2.0-dropbear_2022.83")
    assert link.transport.get_security_options().digests == MODERN.macs + PLAIN_MACS


def test_keepalive_is_answered(link: Link) -> None:
    """keepalive@openssh.com gets an answer, and the connection lives on."""
    assert link.client.global_request("keepalive@openssh.com") is None
    assert link.client.is_active()


def test_lost_connection_ends_every_session(link: Link, runtime: MemoryRuntime) -> None:
    """When the client is gone without a word, all that its sessions run is hung up."""
    link.open("one")
    link.open("two")
    processes = [runtime.next(), runtime.next()]
    link.client.sock.close()
    for process in processes:
        assert process.hung_up.wait(DEADLINE)
    assert link.ended.wait(DEADLINE)


def test_end_tells_the_client_why(link: Link, runtime: MemoryRuntime, caplog: pytest.LogCaptureFixture) -> None:
    """An ended connection's client gets the reason on each session's stderr and in SSH_MSG_DISCONNECT."""
    caplog.set_level(logging.INFO, "paramiko")
    channel = link.open("sleep 1000000")
    process = runtime.next()
    link.server.end("the API token was revoked")
    link.client.join(DEADLINE)
    assert not link.client.is_alive() and channel.closed
    assert channel.recv_stderr(1000) == b"arv-ssh: the API token was revoked\r\n"
    assert "Disconnect (code 11): the API token was revoked" in caplog.text
    assert process.hung_up.wait(DEADLINE)


def test_end_does_not_wait_for_a_client_that_takes_nothing(
    link: Link, runtime: MemoryRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection whose client stopped reading is closed all the same, after a short grace."""
    monkeypatch.setattr(connection_module, "DISCONNECT_GRACE", 0.2)
    channel = link.open("yes")
    with channel.in_buffer._lock:  # type: ignore[attr-defined]  # the client's thread stops at the first output
        runtime.next().say(b"y\n" * (1 << 20))
        link.server.end("too late")
        assert link.ended.wait(DEADLINE)
