"""A double of a stock gateway, the SSH server in stock crunch-run: fresh RSA host key, commands without a shell.

It checks X-Arvados-Container-Gateway-Uuid and X-Arvados-Authorization, ignores what else a controller sends, answers
with its proof and no host key, and lets anybody in who came this far. Refusals are plain text.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import shlex
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import paramiko

from tests.stock.pump import pump


def keyed(key: str, message: bytes) -> str:
    return hmac.new(key.encode(), message, hashlib.sha256).hexdigest()


class Server(paramiko.ServerInterface):
    """One SSH connection's server: anybody, and ``exec`` by ``docker exec`` as the user of the form."""

    def __init__(self, docker_container: str, username: str) -> None:
        self._command = ["docker", "exec", "-i", f"--user={username}", docker_container]

    def check_auth_none(self, username: str) -> int:
        return paramiko.common.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED if kind == "session" else paramiko.common.OPEN_FAILED_UNKNOWN_CHANNEL_TYPE

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        arguments = self._command + shlex.split(command.decode())
        threading.Thread(target=self._run, args=(channel, arguments), daemon=True).start()
        return True

    @staticmethod
    def _run(channel: paramiko.Channel, arguments: list[str]) -> None:
        done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True)
        channel.sendall(done.stdout)
        channel.sendall_stderr(done.stderr)
        channel.send_exit_status(done.returncode)
        channel.close()


class StockGateway:
    """A gateway at ``address`` for one container."""

    def __init__(self, listener: socket.socket, context: ssl.SSLContext, certificate: bytes, **container: str) -> None:
        self.address = f"127.0.0.1:{listener.getsockname()[1]}"
        self.host_key = paramiko.RSAKey.generate(2048)
        self.heads: list[bytes] = []
        self._listener = listener
        self._context = context
        self._certificate = certificate
        self._container = container

    def serve(self) -> None:
        """Accept until the listening socket is shut down."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()

    def _serve_one(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(connection, server_side=True) as tls:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                byte = tls.recv(1)
                if not byte:
                    return
                head += byte
            self.heads.append(head)
            lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
            body = b""
            while len(body) < int(headers.get("content-length", 0)):
                body += tls.recv(65536)
            form = {name: values[0] for name, values in parse_qs(body.decode(), keep_blank_values=True).items()}
            self._answer(tls, headers, form)

    def _answer(self, tls: ssl.SSLSocket, headers: dict[str, str], form: dict[str, str]) -> None:
        request_auth = keyed(self._container["secret"], self._certificate)
        if headers.get("x-arvados-container-gateway-uuid") != self._container["uuid"]:
            return self._refuse(tls, "502 Bad Gateway", "misdirected request")
        if headers.get("x-arvados-authorization") != request_auth:
            return self._refuse(tls, "401 Unauthorized", "bad X-Arvados-Authorization header")
        proof = keyed(self._container["secret"], request_auth.encode())
        tls.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: ssh\r\n"
            b"X-Arvados-Authorization-Response: " + proof.encode() + b"\r\n\r\n"
        )
        outside, inside = socket.socketpair()
        transport = paramiko.Transport(inside)
        transport.add_server_key(self.host_key)
        with contextlib.suppress(Exception):  # what the client does wrong is the client's to tell
            started = threading.Event()
            server = Server(self._container["docker_container"], form.get("login_username") or "root")
            transport.start_server(event=started, server=server)
        with outside:
            pump(tls, outside.fileno(), outside.fileno())
        transport.close()
        return None

    @staticmethod
    def _refuse(tls: ssl.SSLSocket, status: str, text: str) -> None:
        tls.sendall(
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"
            f"Content-Length: {len(text) + 1}\r\n\r\n{text}\n".encode()
        )


@contextmanager
def stock_gateway(certificate: Path, key: Path, root_token: str, uuid: str, **rest: Any) -> Iterator[StockGateway]:
    """Run the double with a TLS certificate for the container ``uuid`` until the end of the block."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text().partition("-----END CERTIFICATE-----")[0] +
                                   "-----END CERTIFICATE-----\n")  # fmt: skip
    secret = keyed(root_token, uuid.encode())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gateway = StockGateway(listener, context, der, uuid=uuid, secret=secret, **rest)
        thread = threading.Thread(target=gateway.serve)
        thread.start()
        try:
            yield gateway
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
