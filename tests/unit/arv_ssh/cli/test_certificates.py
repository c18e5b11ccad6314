import ssl
from pathlib import Path

import pytest

from arv_ssh.cli import certificates
from arv_ssh.net.tls import TlsEngine, client_context, server_context


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_a_client_that_trusts_the_authority_connects(name: str, tmp_path: Path) -> None:
    """The server's certificate is good, under strict checks, for each name of this machine's loopback."""
    issued = certificates.issue("zzzzz")
    for file, text in (("ca", issued.authority), ("server", issued.server), ("key", issued.server_key)):
        (tmp_path / file).write_bytes(text)
    context = client_context(ca_file=str(tmp_path / "ca"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    client = TlsEngine(context, server_side=False, server_hostname=name)
    server_side = server_context(str(tmp_path / "server"), str(tmp_path / "key"))
    server = TlsEngine(server_side, server_side=True)
    for _ in range(4):
        client.handshake()
        _feed(client, server)
        server.handshake()
        _feed(server, client)
    assert client.handshaken and server.handshaken


def _feed(source: TlsEngine, target: TlsEngine) -> None:
    data = source.outgoing()
    if data:
        target.receive(data)
