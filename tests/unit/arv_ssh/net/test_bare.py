"""The C halves of socket and ssl do what the whole ones do: the same settings, verdicts, errors and directories."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from arv_ssh.cli import certificates
from arv_ssh.net import bare
from arv_ssh.net.tls import TlsEngine, client_context, light_client_context, server_context
from tests.timing import DEADLINE

ROOT = Path(__file__).parents[4]


def test_is_bare() -> None:
    """The tests run in a version of Python in which ssh-proxy uses the C halves, whose classes are the whole ones'."""
    assert bare.IS_BARE
    assert issubclass(socket.socket, bare.socket.socket) and bare.socket.gaierror is socket.gaierror
    for name in ("SSLError", "SSLCertVerificationError", "SSLEOFError", "SSLWantReadError", "SSLZeroReturnError"):
        assert getattr(bare.ssl, name) is getattr(ssl, name)
    for name in ("IPPROTO_TCP", "SHUT_WR", "SOCK_STREAM", "SOL_SOCKET", "SO_ERROR", "SO_KEEPALIVE", "TCP_NODELAY"):
        assert getattr(bare.socket, name) == getattr(socket, name)


@pytest.mark.parametrize("insecure", [False, True])
def test_settings(insecure: bool) -> None:
    """A context has the very settings of the whole one: versions, ciphers, options, what is checked, which CAs."""
    names = (
        "check_hostname", "verify_mode", "verify_flags", "options", "minimum_version", "maximum_version", "protocol",
        "post_handshake_auth", "security_level", "sni_callback", "keylog_filename",
    )  # fmt: skip
    whole, light = client_context(insecure=insecure), light_client_context(insecure=insecure)
    assert [getattr(light, name) for name in names] == [getattr(whole, name) for name in names]
    assert light.get_ciphers() == whole.get_ciphers()
    assert light.cert_store_stats() == whole.cert_store_stats()


def verdict(context: ssl.SSLContext, server: ssl.SSLContext, name: bytes) -> tuple[object, ...]:
    """What a client makes of a server; and the server of the client, and the protocol that they agree on."""
    context.set_alpn_protocols(["http/1.1"])
    ours = TlsEngine(context, server_side=False, server_hostname=name)
    theirs = TlsEngine(server, server_side=True)
    said: list[object] = []
    for _ in range(4):
        for engine, other in ((ours, theirs), (theirs, ours)):
            try:
                engine.handshake()
            except ssl.SSLError as error:
                said += [type(error), error.reason, getattr(error, "verify_message", None), str(error)]
            if sent := engine.outgoing():
                other.receive(sent)
    return (*said, ours.handshaken, theirs.handshaken, theirs._tls.selected_alpn_protocol())


@pytest.mark.parametrize(
    ("name", "trusted", "insecure"),
    [
        (b"localhost", True, False),
        (b"127.0.0.1", True, False),
        (b"zzzzz.containers.localhost", True, False),
        (b"example.org", True, False),
        (b"127.0.0.2", True, False),
        (b"localhost", False, False),
        (b"example.org", False, True),
    ],
)
def test_verdicts(tmp_path: Path, name: bytes, trusted: bool, insecure: bool) -> None:
    """Who is trusted is trusted by both, and who is not is refused with the same error to the letter."""
    issued, others = certificates.issue("zzzzz"), certificates.issue("yyyyy")
    authority = tmp_path / "ca.pem"
    authority.write_bytes((issued if trusted else others).authority)
    (tmp_path / "cert.pem").write_bytes(issued.server)
    (tmp_path / "key.pem").write_bytes(issued.server_key)
    server = server_context(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    server.set_alpn_protocols(["h2", "http/1.1"])
    whole, light = (
        verdict(make(insecure=insecure, ca_file=str(authority)), server, name)
        for make in (client_context, light_client_context)
    )
    assert light == whole
    good = insecure or (trusted and b"example" not in name and name != b"127.0.0.2")
    assert whole[-3:] == ((True, True, "http/1.1") if good else (False, False, "http/1.1")), whole


def test_needs_a_name() -> None:
    """Without its name no server could be checked, so there must be one."""
    with pytest.raises(ValueError, match="cannot be checked"):
        TlsEngine(light_client_context(), server_side=False)


def test_must_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python whose bare context does not check the server is not used."""
    monkeypatch.setattr(bare, "_bare_context", lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with pytest.raises(AssertionError, match="does not check"):
        bare.client_context()


@pytest.mark.parametrize(
    ("file", "directory"), [(None, None), ("/etc/passwd", "/etc"), ("/nowhere", "/nowhere"), ("", "")]
)
def test_ca_paths(monkeypatch: pytest.MonkeyPatch, file: str | None, directory: str | None) -> None:
    """The CAs are those of the whole ssl: from the environment or OpenSSL's own, and only if they exist."""
    for name, value in (("SSL_CERT_FILE", file), ("SSL_CERT_DIR", directory)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert bare.ca_paths() == ssl.get_default_verify_paths()[:2]


def test_other_pythons() -> None:
    """In a version that was not compared, all comes from the whole socket and ssl."""
    program = (
        "import sys; sys.version_info = (3, 99, 0); import ssl, socket\n"
        "from arv_ssh.net import bare, tls\n"
        "assert not bare.IS_BARE and bare.ssl is ssl and bare.socket is socket\n"
        "assert isinstance(tls.light_client_context(), ssl.SSLContext)\n"
        "assert bare.ca_paths() == ssl.get_default_verify_paths()[:2]\n"
    )
    subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=DEADLINE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
