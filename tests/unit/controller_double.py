"""A double of the controller, written from the wire description alone: TLS, one request, and a script for the rest."""

from __future__ import annotations

import datetime
import ipaddress
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from arv_ssh.client.settings import Settings
from arv_ssh.net import tls

TOKEN = "v2/zzzzz-gj3su-077z32aux8dg2s1/secretofactiveuser"
UNIT = 10.0
"""Seconds that anything in these tests may take at the most."""


def make_certificate(directory: Path, *names: str) -> None:
    """Write ca.pem (the certificate, its own CA) and key.pem for ``names``, addresses or host names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test controller")])
    now = datetime.datetime.now(datetime.UTC)
    alternatives = [_alternative(text) for text in names]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )


def _alternative(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


class Peer:
    """The double's end of one connection, in blocking steps."""

    def __init__(self, sock: socket.socket, engine: tls.TlsEngine) -> None:
        self.sock = sock
        self.engine = engine
        self.request = ""
        self.body = b""

    def flush(self) -> None:
        """Send what TLS has to send."""
        data = self.engine.outgoing()
        if data:  # sendall waits for room even to send nothing
            self.sock.sendall(data)

    def recv(self) -> bytes:
        """Return the next plaintext; empty at the client's end of stream."""
        while True:
            data = self.engine.read()
            if data or self.engine.eof:
                return data
            self.engine.receive(self.sock.recv(65536))
            self.flush()

    def recv_all(self) -> bytes:
        """Return everything up to the client's end of stream."""
        pieces = []
        while data := self.recv():
            pieces.append(data)
        return b"".join(pieces)

    def send(self, data: bytes) -> None:
        """Send ``data``."""
        self.engine.write(data)
        self.flush()

    def end(self) -> None:
        """End our direction only."""
        self.engine.write_eof()
        self.flush()

    def read_request(self) -> None:
        """Read the head and the body of the request."""
        while not self.engine.handshake():
            self.flush()
            self.engine.receive(self.sock.recv(65536))
        self.flush()
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.recv()
            assert piece, "the client ended without a request"
            data += piece
        head, _, self.body = data.partition(b"\r\n\r\n")
        self.request = head.decode()
        length = next((int(v) for n, v in map(_header, self.request.split("\r\n")[1:]) if n == "content-length"), 0)
        while len(self.body) < length:
            self.body += self.recv()

    def switch(self, *headers: str, glued: bytes = b"") -> None:
        """Answer 101, with ``headers`` and the first bytes of SSH in the same packet."""
        head = ["HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: ssh", *headers]
        self.send("\r\n".join(head).encode() + b"\r\n\r\n" + glued)

    def refuse(self, status: str, body: bytes) -> None:
        """Answer with an error."""
        self.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def relay(self, other: socket.socket) -> None:
        """Relay to ``other`` until either side ends."""
        while True:
            readable, _, _ = select.select([self.sock, other], [], [])
            if other in readable:
                data = other.recv(65536)
                if not data:
                    return self.end()
                self.send(data)
            if self.sock in readable:
                self.engine.receive(self.sock.recv(65536))
                while data := self.engine.read():
                    other.sendall(data)
                if self.engine.eof:
                    return None


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.lower(), value.strip()


class Double:
    """Listens on a port of its own and runs ``script`` for each connection, in a thread of its own."""

    def __init__(self, directory: Path, script: Callable[[Peer], None], host: str = "127.0.0.1") -> None:
        self.directory = directory
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        self.failures: list[BaseException] = []
        self.host = host
        self._script = script
        self._context = tls.server_context(str(directory / "ca.pem"), str(directory / "key.pem"))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def settings(self) -> Settings:
        """Return settings that lead here."""
        return Settings(self.host, self.port, TOKEN, ca_file=str(self.directory / "ca.pem"))

    def environment(self) -> dict[str, str]:
        """Return the variables that lead here."""
        return {
            "ARVADOS_API_HOST": self.settings().authority,
            "ARVADOS_API_TOKEN": TOKEN,
            "SSL_CERT_FILE": str(self.directory / "ca.pem"),
        }

    def close_threads(self) -> None:
        """Wait until every connection so far has ended."""
        for thread in self._threads[1:]:
            thread.join(UNIT)
            assert not thread.is_alive(), "a connection of the double is still open"

    def close(self) -> None:
        """Stop listening, and wait for the connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(UNIT)
        self.close_threads()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        peer = Peer(sock, tls.TlsEngine(self._context, server_side=True))
        with sock:
            try:
                peer.read_request()
                self.requests.append(peer.request)
                self.bodies.append(peer.body)
                self._script(peer)
            except (OSError, AssertionError) as error:  # ssl.SSLError is an OSError
                self.failures.append(error)
