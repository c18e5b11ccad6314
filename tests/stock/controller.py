"""A double of a stock Arvados controller's way to a gateway, as a ProxyCommand for ssh.

It proves the container to the gateway by X-Arvados-Authorization and signs no session; it asks for a whole URL, sends
no Connection header, and goes on only after the gateway's proof.

    ROOT_TOKEN=… python -m tests.stock.controller HOST:PORT UUID LOGIN_USERNAME
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import ssl
import sys
from urllib.parse import urlencode

from tests.stock.pump import pump


def keyed(key: str, message: bytes) -> str:
    return hmac.new(key.encode(), message, hashlib.sha256).hexdigest()


def main(address: str, uuid: str, username: str) -> int:
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tls = context.wrap_socket(socket.create_connection((host, int(port))))
    certificate = tls.getpeercert(binary_form=True)
    assert certificate is not None
    secret = keyed(os.environ["ROOT_TOKEN"], uuid.encode())
    request_auth = keyed(secret, certificate)
    body = urlencode({"uuid": uuid, "detach_keys": "", "login_username": username, "no_forward": "false"})
    tls.sendall(
        f"POST http://{address}/ssh HTTP/1.1\r\nHost: {address}\r\nUpgrade: ssh\r\n"
        f"X-Arvados-Container-Gateway-Uuid: {uuid}\r\nX-Arvados-Authorization: {request_auth}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = tls.recv(1)
        if not byte:
            print("error reading http response from gateway", file=sys.stderr)
            return 1
        head += byte
    if not head.startswith(b"HTTP/1.1 101 "):
        print("unexpected status", head.split(b"\r\n")[0].decode(), tls.recv(1000).decode(), file=sys.stderr)
        return 1
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
    found = {name.lower(): value for name, value in headers.items()}
    if (found["upgrade"].lower(), found["connection"].lower()) != ("ssh", "upgrade"):
        print("bad upgrade", file=sys.stderr)
        return 1
    if found["x-arvados-authorization-response"] != keyed(secret, request_auth.encode()):
        print("bad X-Arvados-Authorization-Response header", file=sys.stderr)
        return 1
    pump(tls, 0, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
