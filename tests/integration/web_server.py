"""A web server for a container: it says what it was asked, reads bodies, and echoes on WebSockets.

Of the standard library only. It runs inside, as ``python3 -c``, on each port that its arguments name.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import sys
import threading
from typing import Any

PAGE = b"""<!doctype html><title>container</title><script>
const socket = new WebSocket(`wss://${location.host}/socket`);
socket.onopen = () => socket.send("hello");
socket.onmessage = async event => {
  const body = `socket: ${event.data}; address: ${location.href}; cookie: ${document.cookie}`;
  await fetch("/report", {method: "POST", body});
  const next = new URLSearchParams(location.search).get("then");
  if (next) location = next;
};
</script>
"""
"""A page that reports what its script sees, and leads to the next one."""

NEIGHBOUR = b"""<!doctype html><title>neighbour</title><script>
const theirs = new URLSearchParams(location.search).get("of");
const report = async text => { await fetch("/report", {method: "POST", body: text}); location = `${theirs}page?led`; };
const script = document.createElement("script");
script.onload = () => report("their script: run");
script.onerror = () => report("their script: refused");
script.src = `${theirs}bytes/1`;
document.head.append(script);
</script>
"""
"""A page that runs a script of another container, then leads the browser to a page there."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers any method."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        """Answer by the path."""
        length = int(self.headers.get("Content-Length") or 0)
        body = self.chunks() if self.headers.get("Transfer-Encoding") else self.rfile.read(length)
        if self.path.startswith("/socket"):
            self.echo()
        elif self.path == "/report":
            print(body.decode(), flush=True)
            self.send(b"", "text/plain")
        elif self.path.startswith("/page"):
            self.send(PAGE, "text/html")
        elif self.path.startswith("/neighbour"):
            self.send(NEIGHBOUR, "text/html")
        elif self.path.startswith("/bytes/"):
            self.send(b"x" * int(self.path[7:]), "application/octet-stream")
        else:
            headers = {name.lower(): value for name, value in self.headers.items()}
            said: dict[str, Any] = {
                "method": self.command, "path": self.path, "headers": headers, "body": len(body),
                "sha256": hashlib.sha256(body).hexdigest(),
            }  # fmt: skip
            self.send(json.dumps(said).encode(), "application/json")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def send(self, body: bytes, kind: str) -> None:
        """Send an answer, with a cookie of our own and one that is not ours to set."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Set-Cookie", "app=1")
        self.send_header("Set-Cookie", "__Host-arvados_api_token=stolen; Path=/; Secure")
        self.send_header("X-Arvados-Authorization-Response", "forged")
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    def chunks(self) -> bytes:
        """Return a body in chunks."""
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def echo(self) -> None:
        """Switch to a WebSocket and send each text back, longer than it came (RFC 6455 §5.2)."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        while (head := self.rfile.read(2)) and head[0] & 15 == 1:
            length = head[1] & 127
            if length == 126:
                length = int.from_bytes(self.rfile.read(2), "big")
            mask = self.rfile.read(4)
            text = bytes(byte ^ mask[index % 4] for index, byte in enumerate(self.rfile.read(length))) + b" back"
            size = bytes([len(text)]) if len(text) < 126 else b"\x7e" + len(text).to_bytes(2, "big")
            self.wfile.write(b"\x81" + size + text)
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def main() -> None:
    """Serve on every port of the arguments."""
    for port in sys.argv[1:]:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
        threading.Thread(target=server.serve_forever).start()
    print("serving", flush=True)


if __name__ == "__main__":
    main()
