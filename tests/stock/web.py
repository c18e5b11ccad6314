"""A double of the way of a stock Arvados controller's HTTP requests to a gateway: for logs, and for ports.

It listens without TLS for any HTTP client, and passes each connection on to the gateway with the proof over its
certificate; the client's whole head is passed on behind that. Of each answer's head it demands the gateway's own proof.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def keyed(key: str, message: bytes) -> str:
    return hmac.new(key.encode(), message, hashlib.sha256).hexdigest()


class WebController:
    """Passes connections on to the gateway of ``uuid`` at ``address``; ``headers`` say what for."""

    def __init__(self, address: str, uuid: str, root_token: str, headers: dict[str, str]) -> None:
        self._address = address
        self._secret = keyed(root_token, uuid.encode())
        self._headers = {"X-Arvados-Container-Gateway-Uuid": uuid, **headers}
        self.unproven: list[bytes] = []
        """Heads of answers without the gateway's proof; a stock controller shows none of these."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        host, _, port = self._address.rpartition(":")
        with client, suppress(OSError), context.wrap_socket(socket.create_connection((host, int(port)))) as gateway:
            head = _head(client)
            proof = keyed(self._secret, gateway.getpeercert(binary_form=True) or b"")
            named = self._headers | {"X-Arvados-Authorization": proof}
            added = "".join(f"{name}: {value}\r\n" for name, value in named.items())
            first, _, rest = head.partition(b"\r\n")
            gateway.sendall(first + b"\r\n" + added.encode() + rest)
            threading.Thread(target=_copy, args=(client, gateway), daemon=True).start()
            while (answer := _head(gateway)).startswith(b"HTTP/1.1 100 "):
                client.sendall(answer)
            wanted = b"\r\nX-Arvados-Authorization-Response: " + keyed(self._secret, proof.encode()).encode()
            last = answer.rpartition(wanted.partition(b": ")[0])[2]
            if wanted not in answer or not last.startswith(wanted.partition(b"Response")[2]):
                self.unproven.append(answer)
            client.sendall(answer)
            _copy(gateway, client)


def _head(source: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = source.recv(1)
        if not byte:
            raise ConnectionResetError("no head")
        head += byte
    return head


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@contextmanager
def web_controller(address: str, uuid: str, root_token: str, headers: dict[str, str]) -> Iterator[WebController]:
    """Run the double, and see that all it was answered was proven."""
    double = WebController(address, uuid, root_token, headers)
    try:
        yield double
    finally:
        double.close()
    assert double.unproven == []
