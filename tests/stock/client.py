"""A double of stock ``arvados-client``: ``connect-ssh`` for ssh's ProxyCommand, and ``shell`` that starts ssh with it.

As the real one it asks for the whole URL, sends no Connection header, takes a 101 only with ``Upgrade: ssh`` and
``Connection: upgrade``, shows the texts of an error's JSON, and ends both directions when either ends. Older versions
ask for ``connect/UUID/ssh`` with the parameters in the URL, newer ones for ``containers/UUID/ssh`` with a form.

    python -m tests.stock.client {older|newer} {connect-ssh [-probe-only] | shell} [USER@]UUID [SSH-ARGUMENTS]
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
from http.client import HTTPSConnection
from urllib.parse import urlencode

from tests.stock.pump import pump

HOST, TOKEN = os.environ["ARVADOS_API_HOST"], os.environ["ARVADOS_API_TOKEN"]
LOCAL_USER = os.environ.get("STOCK_LOCAL_USER", "")


class TunnelError(Exception):
    """The server did not provide a tunnel."""


def connect() -> ssl.SSLSocket:
    host, _, port = HOST.partition(":")
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    return context.wrap_socket(socket.create_connection((host, int(port or 443))), server_hostname=host)


def resolve(target: str) -> str:
    """Return the container of a container or a container request, found by a list as the real one does."""
    if "-xvhdp-" not in target:
        return target
    query = {
        "bypass_federation": "false", "cluster_id": "", "count": "", "distinct": "false", "forwarded_for": "",
        "filters": json.dumps([["uuid", "=", target]]), "include_old_versions": "false", "include_trash": "false",
        "offset": "0",
    }  # fmt: skip
    connection = HTTPSConnection(HOST, context=ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"]))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    connection.request("GET", f"/arvados/v1/container_requests?{urlencode(query)}", headers=headers)
    items = json.load(connection.getresponse())["items"]
    connection.close()
    if not items:
        raise TunnelError(f"container request {target!r} not found")
    return str(items[0]["container_uuid"])


def open_tunnel(version: str, uuid: str, username: str) -> ssl.SSLSocket:
    parameters = urlencode({"detach_keys": "ctrl-],ctrl-]", "login_username": username})
    path, body = f"/arvados/v1/connect/{uuid}/ssh?{parameters}", ""
    if version == "newer":
        path, body = f"/arvados/v1/containers/{uuid}/ssh", parameters + "&no_forward=false"
    tls = connect()
    tls.sendall(
        f"POST https://{HOST}{path} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nHost: {HOST}\r\nUpgrade: ssh\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = tls.recv(1)
        if not byte:
            raise TunnelError("unexpected EOF")
        head += byte
    status = int(head.split()[1])
    headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
    if status != 101:
        raise TunnelError(f"server did not provide a tunnel: {_message(tls, headers)} (HTTP {status})")
    if (headers.get("upgrade"), headers.get("connection")) != ("ssh", "upgrade"):
        raise TunnelError(f"bad response from server: {headers}")
    return tls


def _message(tls: ssl.SSLSocket, headers: dict[str, str]) -> str:
    body = b""
    while len(body) < int(headers["content-length"]):
        body += tls.recv(65536)
    return "; ".join(json.loads(body)["errors"])


def connect_ssh(version: str, arguments: list[str]) -> int:
    username, _, target = arguments[-1].rpartition("@")
    try:
        uuid = resolve(target)
        print("connecting to container", uuid, file=sys.stderr)
        tls = open_tunnel(version, uuid, username or "root")
    except TunnelError as error:
        print("error setting up tunnel:", error, file=sys.stderr)
        return 1
    with tls:
        if "-probe-only" in arguments:
            print(uuid)
        else:
            pump(tls, 0, 1)
    return 0


def shell(version: str, arguments: list[str]) -> int:
    target = arguments[0]
    status = connect_ssh(version, ["-probe-only", target])
    if status:
        return status
    proxy = f"'{sys.executable}' -m tests.stock.client {version} connect-ssh '{target}'"
    # Without a name before the UUID, ssh's user name is that of the local user. Tests run as one, and name another.
    local = ["-o", f"User={LOCAL_USER}"] if LOCAL_USER and "@" not in target else []
    options = ["-o", f"ProxyCommand {proxy}", "-o", "StrictHostKeyChecking no", *local]
    os.execvp("ssh", ["ssh", *options, target, *arguments[1:]])


if __name__ == "__main__":
    chosen = {"connect-ssh": connect_ssh, "shell": shell}[sys.argv[2]]
    sys.exit(chosen(sys.argv[1], sys.argv[3:]))
