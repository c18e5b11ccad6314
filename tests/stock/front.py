"""A double of a whole stock Arvados controller, as clients and gateways see it: sessions, logs, and an API behind it.

It takes one request a connection. A session, and a request for a running container's log, it passes on to the gateway
with the container's proof, and demands the gateway's; of a session's answer the client gets the upgrade and no header
more, of a log's everything but the proof. All else goes to the API. What it was asked is in ``asked``.
"""

from __future__ import annotations

import re
import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.stock.controller import keyed

SESSION = re.compile(r"/arvados/v1/(?:containers|connect)/([^/]+)/ssh")
LOG = re.compile(r"/arvados/v1/container_requests/([^/]+)/log/([^/]+)(?:/.*)?")
PROOF = "X-Arvados-Authorization-Response"


class Front:
    """Serves at ``address`` ("host:port") with the certificate and key of ``pair``; ``api`` is the API's address.

    ``gateways`` gives the address of a container's gateway, "" for one that does not run.
    """

    def __init__(self, pair: tuple[Path, Path], api: str, root_token: str, gateways: Callable[[str], str]) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*pair)
        self._api = api
        self._root_token = root_token
        self._gateways = gateways
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError), self._context.wrap_socket(connection, server_side=True) as client:
            head, body = _message(client)
            method, target, _ = head[0].split(" ")
            parts = urlsplit(target)  # stock's client asks for the whole URL
            path, query = parts.path, parts.query
            self.asked.append(f"{method} {path}")
            log = LOG.fullmatch(path)
            if found := SESSION.fullmatch(path):
                form = parse_qs(query or body.decode(), keep_blank_values=True)
                self._session(client, found[1], form.get("login_username", [""])[0])
            elif log and (address := self._gateways(log[2])):
                prefix = f"/arvados/v1/container_requests/{log[1]}/log/{log[2]}"
                self._log(client, log[2], address, [*head, f"X-Webdav-Prefix: {prefix}", "X-Webdav-Source: /log"])
            else:
                self._pass_on(client, _connect(self._api), head, body)

    def _session(self, client: ssl.SSLSocket, uuid: str, username: str) -> None:
        form = urlencode({"uuid": uuid, "detach_keys": "", "login_username": username, "no_forward": "false"})
        gateway, wanted, proofs = self._proven(uuid, self._gateways(uuid))
        head = ["POST /ssh HTTP/1.1", "Host: gateway", "Upgrade: ssh", *proofs,
                "Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(form)}"]  # fmt: skip
        with gateway:
            gateway.sendall(_text(head) + form.encode())
            answer, _ = _message(gateway)
            _check(answer, wanted)
            client.sendall(_text(["HTTP/1.1 101 Switching Protocols", "Connection: upgrade", "Upgrade: ssh"]))
            _relay(client, gateway)

    def _log(self, client: ssl.SSLSocket, uuid: str, address: str, head: list[str]) -> None:
        gateway, wanted, proofs = self._proven(uuid, address)
        with gateway:
            gateway.sendall(_text([*_closing(head), *proofs]))
            answer, early = _message(gateway, whole=False)
            _check(answer, wanted)
            client.sendall(_text([line for line in answer if not line.startswith(PROOF)]) + early)
            _copy(gateway, client)

    def _proven(self, uuid: str, address: str) -> tuple[ssl.SSLSocket, str, list[str]]:
        """Return a connection to a gateway, the proof to expect, and the headers that prove the container to it."""
        gateway = _connect(address)
        secret = keyed(self._root_token, uuid.encode())
        proof = keyed(secret, gateway.getpeercert(binary_form=True) or b"")
        headers = [f"X-Arvados-Container-Gateway-Uuid: {uuid}", f"X-Arvados-Authorization: {proof}"]
        return gateway, keyed(secret, proof.encode()), headers

    def _pass_on(self, client: ssl.SSLSocket, api: ssl.SSLSocket, head: list[str], body: bytes) -> None:
        with api:
            api.sendall(_text(_closing(head)) + body)
            _copy(api, client)


def _connect(address: str) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, _, port = address.rpartition(":")
    return context.wrap_socket(socket.create_connection((host, int(port))))


def _message(source: ssl.SSLSocket, *, whole: bool = True) -> tuple[list[str], bytes]:
    """Read a head, as its lines, and with ``whole`` the body that its Content-Length names."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = source.recv(1)
        if not byte:
            raise ConnectionResetError("no head")
        head += byte
    lines = head.decode().split("\r\n")[:-2]
    lengths = [line.partition(":")[2] for line in lines if line.lower().startswith("content-length:")] if whole else []
    body = b""
    while lengths and len(body) < int(lengths[0]):
        body += source.recv(65536)
    return lines, body


def _check(answer: list[str], wanted: str) -> None:
    assert [line for line in answer if line.startswith(PROOF)] == [f"{PROOF}: {wanted}"], answer


def _closing(head: list[str]) -> list[str]:
    return [line for line in head if not line.lower().startswith("connection:")] + ["Connection: close"]


def _text(lines: list[str]) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode()


def _copy(source: ssl.SSLSocket, target: ssl.SSLSocket) -> None:
    while data := source.recv(65536):
        target.sendall(data)


def _relay(client: ssl.SSLSocket, gateway: ssl.SSLSocket) -> None:
    """Copy in both directions until either ends, as stock does; one thread, since TLS is not for two."""
    with selectors.DefaultSelector() as selector:
        other = {client: gateway, gateway: client}
        for one in other:
            selector.register(one, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                source: ssl.SSLSocket = key.fileobj  # type: ignore[assignment]
                data = source.recv(65536)
                if not data:
                    return
                other[source].sendall(data)
                while source.pending():
                    other[source].sendall(source.recv(65536))


@contextmanager
def front(pair: tuple[Path, Path], api: str, root_token: str, gateways: Callable[[str], str]) -> Iterator[Front]:
    """Run the double."""
    double = Front(pair, api, root_token, gateways)
    try:
        yield double
    finally:
        double.close()
