"""The TLS engine: bytes in pieces of every size, each direction's end for itself, and a cut that is no end."""

from __future__ import annotations

import ssl

import pytest

from arv_ssh.net.tls import TlsEngine, client_context, light_client_context
from crunch_sshd.gateway import certificate

CONTEXT, DER = certificate.fresh()

sizes = pytest.mark.parametrize("size", [1, 10, 100_000])
versions = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


@pytest.fixture(params=[client_context, light_client_context], ids=["whole", "bare"], autouse=True)
def _each_context(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a client of either kind."""
    monkeypatch.setitem(globals(), "client_context", request.param)


def carry(sender: TlsEngine, receiver: TlsEngine, size: int = 100_000) -> int:
    """Hand over what ``sender`` has to send, in pieces, as a transport would."""
    ciphertext = sender.outgoing()
    for start in range(0, len(ciphertext), size):
        receiver.receive(ciphertext[start : start + size])
        if not receiver.handshaken:
            receiver.handshake()
    return len(ciphertext)


def pair(
    size: int = 100_000, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, buffer: memoryview | None = None
) -> tuple[TlsEngine, TlsEngine]:
    """Return a client and a server after their handshake."""
    context = client_context(insecure=True)
    context.maximum_version = version
    client = TlsEngine(context, server_side=False, buffer=buffer)
    server = TlsEngine(CONTEXT, server_side=True, buffer=buffer)
    while not (client.handshake() & server.handshake()):
        assert carry(client, server, size) + carry(server, client, size), "neither side has anything to say"
    carry(client, server, size)
    carry(server, client, size)
    return client, server


@sizes
@versions
def test_both_ways(size: int, version: ssl.TLSVersion) -> None:
    """What one side writes the other reads, however the ciphertext is cut."""
    client, server = pair(size, version)
    client.write(b"up" * 100)
    server.write(bytearray(b"down" * 100))
    carry(client, server, size)
    carry(server, client, size)
    assert server.read() == b"up" * 100
    assert client.read() == b"down" * 100
    assert not server.eof and not client.eof and server.read() == b""


@sizes
@pytest.mark.parametrize("first", ["client", "server"])
def test_half_close(first: str, size: int) -> None:
    """One side's end of stream leaves the other direction open, whoever ends first."""
    client, server = pair(size)
    ending, other = (client, server) if first == "client" else (server, client)
    ending.write(b"last words")
    ending.write_eof()
    carry(ending, other, size)
    assert other.read() == b"last words" and other.read() == b"" and other.eof
    for word in (b"still", b"here"):
        other.write(word)
        carry(other, ending, size)
        assert ending.read() == word and not ending.eof
    other.write_eof()
    carry(other, ending, size)
    assert ending.read() == b"" and ending.eof


def test_eof_with_unread_data_loses_nothing() -> None:
    """Ending our direction while the peer's data lies unread keeps that data, in order, and the peer's own end."""
    client, server = pair()
    for number in range(100):
        client.write(bytes([number]) * 10_000)
    client.write_eof()
    carry(client, server)
    server.write_eof()
    received = b""
    while not server.eof:
        received += server.read()
    assert received == b"".join(bytes([number]) * 10_000 for number in range(100))
    carry(server, client)
    assert client.read() == b"" and client.eof


def read_by(engine: TlsEngine, room: int) -> bytes:
    """Return all that an engine has, read into a buffer of ``room`` bytes."""
    buffer, received = memoryview(bytearray(room)), b""
    while got := engine.read_into(buffer):
        received += buffer[:got]
    return received


@sizes
@versions
def test_read_into(size: int, version: ssl.TLSVersion) -> None:
    """A reader's own buffer takes what it has room for, the end is seen, and reading on after that gives nothing."""
    client, server = pair(size, version)
    data = bytes(range(256)) * 400
    client.write(data)
    client.write_eof()
    carry(client, server, size)
    assert read_by(server, 30_000) == data and server.eof and read_by(server, 1) == b""


def test_read_into_begins_with_what_our_own_eof_took_out() -> None:
    """What ending our direction had to take out of TLS comes first and whole, whatever room the reader has."""
    client, server = pair()
    client.write(b"0123456789")
    carry(client, server)
    server.write_eof()
    client.write(b"abc")
    carry(client, server)
    assert read_by(server, 7) == b"0123456789abc"


def test_read_into_takes_all_that_there_is() -> None:
    """One read gives all that fits: who waits for the network after it may wait for ever."""
    client, server = pair()
    client.write(b"before ")
    carry(client, server)
    server.write_eof()
    client.write(b"and after")
    carry(client, server)
    buffer = memoryview(bytearray(100))
    assert bytes(buffer[: server.read_into(buffer)]) == b"before and after"


def test_more() -> None:
    """It is known whether a read may find something before more comes: data, half a record, a failure or the end."""
    client, server = pair()
    server.read()
    assert not server.more
    client.write(b"0123456789")
    carry(client, server)
    assert server.more
    buffer = memoryview(bytearray(10))
    assert server.read_into(buffer) == 10 and server.more and server.read_into(buffer) == 0 and not server.more
    client.write(b"cut")
    said = client.outgoing()
    server.receive(said[:-1])
    assert server.more and server.read() == b"" and not server.more
    client.write_eof()
    server.receive(said[-1:] + client.outgoing())
    assert server.read() == b"cut" and server.more and server.read() == b"" and server.eof and server.more


def test_second_eof_says_nothing() -> None:
    """A direction ends once."""
    client, _ = pair()
    client.write_eof()
    assert client.outgoing() and client.close_sent
    client.write_eof()
    assert client.outgoing() == b""


@sizes
def test_cut_is_an_error(size: int) -> None:
    """A transport that ends without close_notify is an error, after what came before it was read."""
    client, server = pair(size)
    client.write(b"before the cut")
    carry(client, server, size)
    server.receive(b"")
    assert server.read() == b"before the cut"
    with pytest.raises(ssl.SSLError):
        server.read()
    assert not server.eof


def test_cut_in_the_middle_of_a_record() -> None:
    """Half a record followed by the transport's end is an error, and none of the record is delivered."""
    client, server = pair()
    client.write(b"never whole")
    server.receive(client.outgoing()[:-1])
    server.receive(b"")
    with pytest.raises(ssl.SSLError):
        server.read()


@pytest.mark.parametrize("before", [b"", b"good"])
def test_corrupted_record(before: bytes) -> None:
    """A changed byte is an error, after what came before it, and the alert for the peer is there to be sent."""
    client, server = pair()
    client.write(before)
    carry(client, server)
    client.write(b"text")
    ciphertext = bytearray(client.outgoing())
    ciphertext[-1] ^= 1
    server.receive(ciphertext)
    if before:
        assert server.read() == before
    assert server.more
    with pytest.raises(ssl.SSLError):
        server.read()
    assert server.outgoing()


def test_plain_http_is_told_apart() -> None:
    """A request without TLS is recognized by its own reason."""
    server = TlsEngine(CONTEXT, server_side=True)
    server.receive(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(ssl.SSLError) as caught:
        server.handshake()
    assert caught.value.reason == "HTTP_REQUEST"


def test_read_limit() -> None:
    """A read takes what the buffer has room for and leaves the rest."""
    client, server = pair(buffer=memoryview(bytearray(1000)))
    client.write(bytes(100_000))
    carry(client, server)
    pieces = []
    while piece := server.read():
        pieces.append(len(piece))
    assert max(pieces) <= 1000 and sum(pieces) == 100_000


def test_peer_certificate() -> None:
    """The client sees the gateway's certificate in the very bytes that the proofs are over."""
    client, server = pair()
    assert client.peer_certificate() == DER
    assert server.peer_certificate() == b""


def test_server_speaks_first_only_when_asked() -> None:
    """After the handshake a server has nothing unasked to say: no session tickets."""
    context = client_context(insecure=True)
    client, server = TlsEngine(context, server_side=False), TlsEngine(CONTEXT, server_side=True)
    client.handshake()
    carry(client, server)
    carry(server, client)
    client.handshake()
    carry(client, server)
    assert server.handshaken and server.outgoing() == b""


def test_client_checks_the_server() -> None:
    """Unless told otherwise a client refuses a certificate that no CA vouches for."""
    client = TlsEngine(client_context(), server_side=False, server_hostname="gateway")
    server = TlsEngine(CONTEXT, server_side=True)
    client.handshake()
    carry(client, server)
    client.receive(server.outgoing())
    with pytest.raises(ssl.SSLCertVerificationError):
        client.handshake()


@pytest.mark.parametrize("insecure", [True, False])
def test_oldest_version(insecure: bool) -> None:
    """Nothing older than TLS 1.2 is spoken."""
    assert client_context(insecure=insecure).minimum_version == ssl.TLSVersion.TLSv1_2
    assert CONTEXT.minimum_version == ssl.TLSVersion.TLSv1_2
