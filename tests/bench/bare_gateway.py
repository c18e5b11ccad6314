"""The gateway's SSH server alone on a TCP port: no TLS, no HTTP, no controller.

Arguments: container id, port (0: any free one), runtime (default: auto). The port is the first line of its output.
"""

from __future__ import annotations

import socket
import sys

from crunch_sshd.gateway.connection import Connection, Login
from crunch_sshd.runtimes.choose import choose
from crunch_sshd.runtimes.docker_engine import connect
from crunch_sshd.ssh import descriptors


def main() -> None:
    """Serve the container's default user to whoever connects, until a signal ends the process."""
    container, port, kind = sys.argv[1], int(sys.argv[2]), (sys.argv[3:] or ["auto"])[0]
    descriptors.raise_limit()
    runtime = choose(kind, connect(), container, "benchmark")
    login = Login("", runtime.account(""), "", b"", "req-benchmark")
    connections: set[Connection] = set()
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(client, "benchmark", login, runtime, connections.discard)
            connections.add(connection)
            connection.start()


if __name__ == "__main__":
    main()
