"""A double of a stock gateway, the SSH server in stock crunch-run: fresh RSA host key, commands without a shell.

It checks X-Arvados-Container-Gateway-Uuid and X-Arvados-Authorization, ignores what else a controller sends, answers
with its proof and no host key, and lets anybody in who came this far. Refusals are plain text. Logs are one file,
crunch-run.txt; a request for a port goes to the container's address, and its answer comes back with the proof set anew.
Each connection has one request.
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
        host, port = listener.getsockname()
        self.address = f"{host}:{port}"
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
            self._answer(tls, lines[0].split()[0], head, body, headers, form)

    def _answer(
        self, tls: ssl.SSLSocket, method: str, head: bytes, body: bytes, headers: dict[str, str], form: dict[str, str]
    ) -> None:
        request_auth = keyed(self._container["secret"], self._certificate)
        if headers.get("x-arvados-container-gateway-uuid") != self._container["uuid"]:
            return self._refuse(tls, "502 Bad Gateway", "misdirected request")
        if headers.get("x-arvados-authorization") != request_auth:
            return self._refuse(tls, "401 Unauthorized", "bad X-Arvados-Authorization header")
        proof = keyed(self._container["secret"], request_auth.encode())
        if method != "POST" or headers.get("upgrade") != "ssh":
            return self._serve_http(tls, method, head, body, headers, proof)
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

    def _serve_http(
        self, tls: ssl.SSLSocket, method: str, head: bytes, body: bytes, headers: dict[str, str], proof: str
    ) -> None:
        """Serve logs, and ports."""
        proven = f"X-Arvados-Authorization-Response: {proof}"
        if headers.get("x-webdav-source") == "/log":
            return self._log(tls, method, headers, proven)
        if port := headers.get("x-arvados-container-target-port"):
            return self._port(tls, int(port), head, body, proven)
        return self._refuse(tls, "404 Not Found", "path not found", proven)

    def _log(self, tls: ssl.SSLSocket, method: str, headers: dict[str, str], proven: str) -> None:
        text = self._container.get("log", "").encode()
        if method == "PROPFIND":
            answer = f'<D:multistatus xmlns:D="DAV:">{headers.get("x-webdav-prefix", "")}</D:multistatus>'.encode()
            return self._send(tls, "207 Multi-Status", answer, proven)
        if method not in ("GET", "OPTIONS"):
            return self._refuse(tls, "405 Method Not Allowed", "method not allowed", proven)
        first, _, last = headers.get("range", "").removeprefix("bytes=").partition("-")
        if first:
            end = int(last) + 1 if last else len(text)
            told = f"{proven}\r\nContent-Range: bytes {first}-{end - 1}/{len(text)}"
            return self._send(tls, "206 Partial Content", text[int(first) : end], told)
        return self._send(tls, "200 OK", text, proven)

    def _port(self, tls: ssl.SSLSocket, port: int, head: bytes, body: bytes, proven: str) -> None:
        """Pass a request on without the proof, and the answer back with ours."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        inspect = ["docker", "inspect", "--format", form, self._container["docker_container"]]
        address = subprocess.run(inspect, capture_output=True, text=True).stdout.strip()
        lines = [line for line in head.rstrip().split(b"\r\n") if not line.lower().startswith(
            (b"x-arvados-authorization", b"x-arvados-container", b"connection:"))]  # fmt: skip
        try:
            with socket.create_connection((address, port)) as service:
                service.sendall(b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body)
                answer = b""
                while b"\r\n\r\n" not in answer and (data := service.recv(65536)):
                    answer += data
                top, _, rest = answer.partition(b"\r\n\r\n")
                kept = [line for line in top.split(b"\r\n") if not line.lower().startswith(b"x-arvados-auth")]
                tls.sendall(b"\r\n".join([*kept, proven.encode(), b"", b""]) + rest)
                while data := service.recv(65536):
                    tls.sendall(data)
        except ConnectionRefusedError as error:
            self._refuse(tls, "503 Service Unavailable", str(error), proven)

    @staticmethod
    def _send(tls: ssl.SSLSocket, status: str, answer: bytes, headers: str) -> None:
        tls.sendall(f"HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: {len(answer)}\r\n\r\n".encode() + answer)

    @staticmethod
    def _refuse(tls: ssl.SSLSocket, status: str, text: str, proven: str = "X-Proven: no") -> None:
        tls.sendall(
            f"HTTP/1.1 {status}\r\n{proven}\r\n"
            "Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"
            f"Content-Length: {len(text) + 1}\r\n\r\n{text}\n".encode()
        )


@contextmanager
def stock_gateway(certificate: Path, key: Path, root_token: str, uuid: str, **rest: Any) -> Iterator[StockGateway]:
    """Run the double with a TLS certificate for the container ``uuid`` until the end of the block.

    ``rest`` may have ``secret`` instead of the root token's, ``listen`` (host and port) and ``log``, its text.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text().partition("-----END CERTIFICATE-----")[0] +
                                   "-----END CERTIFICATE-----\n")  # fmt: skip
    container = {"uuid": uuid, "secret": keyed(root_token, uuid.encode())} | rest
    with socket.create_server(container.pop("listen", ("127.0.0.1", 0))) as listener:
        gateway = StockGateway(listener, context, der, **container)
        thread = threading.Thread(target=gateway.serve)
        thread.start()
        try:
            yield gateway
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
